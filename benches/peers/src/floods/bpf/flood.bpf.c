// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
/*
 * Floods from forged sources, sent as by the generator of `wire.bpf.c`.
 *
 * Invariant: every source, an address with a port, sends its first packet once in four billion packets. All
 * checksums are correct.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_LEN 60
#define SOURCE_ADDRESS_BITS 22
#define SOURCE_PORT 16384
#define SOURCE_PORT_MASK 1023
/* An odd number: multiplication permutes the addresses. */
#define SCATTER 0x9e3779b1
/* A generator that is later than this gives up what it owes. In nanoseconds. */
#define LATE_MAX 20000000

/* Written by `generator.rs`. All fields are words, so there is no padding. */
struct plan {
	/* The frame without source, TCP's numbers and flags, and checksums. */
	__u8 frame[64];
	/* Sums of its 16-bit words for the checksums of IPv4 and of UDP or TCP. */
	__u64 ip_sum;
	__u64 transport_sum;
	/* TCP: data offset and flags of a source's first packet, as a word of the wire; 0: UDP. */
	__u64 first;
	/* The same of its second packet; 0: it sends one. */
	__u64 second;
	/* How many sources later the second packet follows. */
	__u64 lag;
	/* The first source address, in host order. */
	__u64 source;
	__u64 interface;
	/* Nanoseconds between two frames; 0: as many frames as possible. */
	__u64 interval;
	/* Set to stop sending: the running call then ends soon. */
	__u64 is_over;
};

struct progress {
	__u64 sent;
	/* When the next frame is due. */
	__u64 due;
};

struct packet {
	struct ethhdr ethernet;
	struct iphdr ip;
	union {
		struct tcphdr tcp;
		struct udphdr udp;
		/* The seventh has TCP's data offset and flags. */
		__u16 words[(FRAME_LEN - sizeof(struct ethhdr) - sizeof(struct iphdr)) / 2];
	} __attribute__((packed));
} __attribute__((packed));

_Static_assert(sizeof(struct packet) == FRAME_LEN, "a packet fills a frame");

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

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static __always_inline __u64 words_of(__u32 value)
{
	return (value & 0xffff) + (value >> 16);
}

static __always_inline int is_due(const struct plan *plan, struct progress *progress, __u64 now)
{
	if (now < progress->due)
		return 0;
	progress->due += plan->interval;
	if (now > progress->due + LATE_MAX)
		progress->due = now;
	return 1;
}

SEC("xdp")
int flood(struct xdp_md *context)
{
	struct packet *packet = (void *)(long)context->data;
	const __u32 zero = 0;
	const struct plan *plan = bpf_map_lookup_elem(&plans, &zero);
	struct progress *progress = bpf_map_lookup_elem(&progresses, &zero);
	__u32 number, source, word;
	__be32 address;
	__be16 port;
	__u64 sum;

	if (!plan || !progress || (void *)(packet + 1) > (void *)(long)context->data_end)
		return XDP_ABORTED;
	if (plan->is_over || (plan->interval && !is_due(plan, progress, bpf_ktime_get_ns())))
		return XDP_DROP;

	number = progress->sent++;
	source = number;
	word = plan->first;
	if (plan->second) {
		source = number >> 1;
		if (number & 1) {
			source -= plan->lag;
			word = plan->second;
		}
	}
	address = bpf_htonl(plan->source + ((source * SCATTER) & ((1 << SOURCE_ADDRESS_BITS) - 1)));
	port = bpf_htons(SOURCE_PORT + ((source >> SOURCE_ADDRESS_BITS) & SOURCE_PORT_MASK));

	__builtin_memcpy(packet, plan->frame, FRAME_LEN);
	packet->ip.saddr = address;
	packet->ip.check = ~folded(plan->ip_sum + words_of(address));
	sum = plan->transport_sum + words_of(address) + port;
	/* Source and destination port are where TCP has them, too. */
	packet->udp.source = port;
	if (word) {
		__u32 random = source * SCATTER + number;

		/* A number and its complement add up to zero in the checksum. */
		packet->tcp.seq = random;
		packet->tcp.ack_seq = ~random;
		packet->words[6] = word;
		packet->tcp.check = ~folded(sum + word);
	} else {
		packet->udp.check = ~folded(sum);
		if (!packet->udp.check)
			packet->udp.check = 0xffff;
	}
	return bpf_redirect(plan->interface, 0);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
