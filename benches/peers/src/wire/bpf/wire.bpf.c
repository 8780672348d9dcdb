// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
/*
 * The packet generator and the packet sink.
 *
 * The generator runs by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES: the kernel calls it repeatedly
 * on frames of its own and sends the frames that it redirects, without socket or copy. The sink runs where
 * frames enter the servers' network, before anything else there sees them.
 *
 * Invariant: the generator writes each frame completely, because the kernel recycles pages that a receiver
 * may have modified. A frame's checksums are correct. Its time stamp is 0 unless latency is measured; it
 * does not affect the checksum, because its complement follows it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* 64 bytes on a physical wire, which adds the frame check sequence. */
#define FRAME_LEN 60
#define IP_WORDS 10
#define UDP_WORDS 13
/* Each source address has 1024 ports, starting with this one. */
#define SOURCE_PORT 16384
#define SOURCE_PORT_BITS 10
#define SOURCE_ADDRESS_MASK 0x003fffff
/* A generator that is later than this was interrupted: it restarts its pace. In nanoseconds. */
#define LATE_MAX 50000

/* Latency buckets: 32 per power of two, up to 64 s. `histogram.rs` is the inverse. */
#define STEP_BITS 5
#define STEPS (1 << STEP_BITS)
#define OCTAVE_MAX 35
#define BUCKETS ((OCTAVE_MAX - STEP_BITS + 2) * STEPS)

/* Written by `generator.rs`. All fields are words, so there is no padding. */
struct plan {
	/* The frame without source address, source port, checksums and time stamp. */
	__u8 frame[64];
	/* Sums of its 16-bit words for the checksums of IPv4 and UDP. */
	__u64 ip_sum;
	__u64 udp_sum;
	/* The number of flows; 0: each packet has a flow of its own. */
	__u64 flows;
	/* The first source address, in host order. */
	__u64 source;
	/* The index of the interface that frames leave by. */
	__u64 interface;
	/* Nanoseconds between two frames, which then have time stamps; 0: as many frames as possible. */
	__u64 interval;
	/* Set to stop sending: the running call then ends soon. */
	__u64 is_over;
};

struct progress {
	__u64 sent;
	__u64 flow;
	/* When the next frame is due. */
	__u64 due;
};

/* Read by `sink.rs`. */
struct arrivals {
	__u64 packets;
	/* Packets with a wrong checksum. */
	__u64 bad;
	/* Packets by the last two bits of their destination address. */
	__u64 by_server[4];
};

struct datagram {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
	__u64 stamp;
	__u64 complement;
	__u16 rest;
} __attribute__((packed));

_Static_assert(sizeof(struct datagram) == FRAME_LEN, "a datagram fills a frame");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct progress);
} progresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrivals);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

/* The UDP port that the sink counts; set by the loader. */
volatile const __u16 measured_port = 0;

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Returns whether the next frame is due, and if so advances the due time. */
static __always_inline int is_due(const struct plan *plan, struct progress *progress, __u64 now)
{
	if (now < progress->due)
		return 0;
	progress->due += plan->interval;
	if (now > progress->due + LATE_MAX)
		progress->due = now + plan->interval;
	return 1;
}

SEC("xdp")
int generate(struct xdp_md *context)
{
	struct datagram *datagram = (void *)(long)context->data;
	const __u32 zero = 0;
	const struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	struct progress *progress = bpf_map_lookup_elem(&progresses, &zero);
	__u64 stamp = 0, flow, sums;
	__be32 source;
	__be16 port;

	if (!plan || !progress || (void *)(datagram + 1) > (void *)(long)context->data_end)
		return XDP_ABORTED;
	if (plan->is_over)
		return XDP_DROP;
	if (plan->interval) {
		stamp = bpf_ktime_get_ns();
		/* Dropping the frame is the fastest way to wait. */
		if (!is_due(plan, progress, stamp))
			return XDP_DROP;
	}

	flow = progress->flow++;
	if (plan->flows && progress->flow >= plan->flows)
		progress->flow = 0;
	source = bpf_htonl(plan->source + ((flow >> SOURCE_PORT_BITS) & SOURCE_ADDRESS_MASK));
	port = bpf_htons(SOURCE_PORT + (flow & ((1 << SOURCE_PORT_BITS) - 1)));

	__builtin_memcpy(datagram, plan->frame, FRAME_LEN);
	datagram->ip.saddr = source;
	sums = (source & 0xffff) + (source >> 16);
	datagram->ip.check = ~folded(plan->ip_sum + sums);
	datagram->udp.source = port;
	datagram->udp.check = ~folded(plan->udp_sum + sums + port);
	/* RFC 768: a checksum of zero is sent as all ones. */
	if (!datagram->udp.check)
		datagram->udp.check = 0xffff;
	datagram->stamp = stamp;
	datagram->complement = stamp ? ~stamp : 0;

	progress->sent++;
	return bpf_redirect(plan->interface, 0);
}

static __always_inline __u32 bucket(__u64 latency)
{
	__u32 octave = STEP_BITS;

	if (latency < STEPS)
		return latency;
	/* Finds the position of the highest bit. */
	for (int step = 16; step; step >>= 1) {
		if (octave + step <= OCTAVE_MAX && latency >> (octave + step))
			octave += step;
	}
	if (latency >> octave > 1)
		return BUCKETS - 1;
	return (octave - STEP_BITS + 1) * STEPS + ((latency >> (octave - STEP_BITS)) & (STEPS - 1));
}

static __always_inline __u64 sum_of(const __u16 *words, int count)
{
	__u64 sum = 0;

#pragma unroll
	for (int at = 0; at < count; at++)
		sum += words[at];
	return sum;
}

static __always_inline int is_bad(const struct datagram *datagram)
{
	const __u16 *ip = (const void *)&datagram->ip;
	__u64 udp_sum = sum_of((const void *)&datagram->udp, UDP_WORDS);

	/* The pseudo-header: both addresses (the last words of the IPv4 header), protocol, length. */
	udp_sum += sum_of(ip + 6, 4) + bpf_htons(IPPROTO_UDP) + datagram->udp.len;
	return folded(sum_of(ip, IP_WORDS)) != 0xffff || folded(udp_sum) != 0xffff;
}

SEC("classifier")
int sink(struct __sk_buff *packet)
{
	const struct datagram *datagram = (void *)(long)packet->data;
	const __u32 zero = 0;
	struct arrivals *arrivals;
	__u64 *latency;
	__u32 at;

	if ((void *)(datagram + 1) > (void *)(long)packet->data_end ||
	    datagram->ethernet.h_proto != bpf_htons(ETH_P_IP) || datagram->ip.protocol != IPPROTO_UDP ||
	    datagram->udp.dest != bpf_htons(measured_port))
		return TC_ACT_UNSPEC;

	arrivals = bpf_map_lookup_elem(&counts, &zero);
	if (!arrivals)
		return TC_ACT_UNSPEC;
	arrivals->packets++;
	arrivals->bad += is_bad(datagram);
	arrivals->by_server[bpf_ntohl(datagram->ip.daddr) & 3]++;
	if (datagram->stamp) {
		at = bucket(bpf_ktime_get_ns() - datagram->stamp);
		latency = bpf_map_lookup_elem(&latencies, &at);
		if (latency)
			++*latency;
	}
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
