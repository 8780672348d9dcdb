// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
/*
 * Steers frames to the workers' sockets; all other frames stay with the kernel.
 *
 * Invariant: a frame without a matching rule passes to the kernel unchanged; a frame with one never does.
 * From a queue without a socket or without the program, as while ports are attached again, it is dropped and
 * counted: the kernel would route it past NAT, and the receiver would reset the connection. No program writes
 * to a frame.
 *
 * A frame to the balancer's own MAC is redirected to its queue's socket when it is
 *   - TCP or UDP to a service;
 *   - ICMP, ICMPv6, a fragment, or any other packet to a VIP or to a source NAT address, which is one of
 *     the VIPs here. The worker drops and counts what it does not serve. The kernel does not own the
 *     address, and would send the packet back to the router;
 *   - TCP or UDP from a backend's endpoint (possibly with any port) to an address that is not the
 *     host's own;
 *   - TCP or UDP to a backend's endpoint: a client that bypasses the VIP from a port that it also uses
 *     towards the VIP. The worker gives it back to the kernel, if need be with another port;
 *   - a fragment of TCP or UDP from a backend's address to such an address, or to a backend's address: only
 *     the first fragment has ports, by which the worker decides for all of them;
 *   - an ICMP or ICMPv6 error, or an ICMP redirect, to such an address, about a packet to or from a
 *     backend's endpoint;
 * and, also when sent by broadcast or multicast, when it is
 *   - an ARP request or a neighbour solicitation for a VIP that is answered for: a removed VIP, which has
 *     only the packets of its last sessions, may have a new owner.
 *
 * A bridged port (transparent mode) also forwards frames between other hosts. The program takes the
 * servers' frames by the same rules, to any destination MAC. It does not take frames to a VIP with another
 * host's MAC: that host may own the VIP now.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "frames.bpf.h"

static __always_inline void map_ipv4(struct address *to, __be32 from)
{
	to->word[0] = 0;
	to->word[1] = 0;
	to->word[2] = bpf_htonl(0xffff);
	to->word[3] = from;
}

static __always_inline bool is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS;
}

static __always_inline bool is_vip(const struct address *address)
{
	return bpf_map_lookup_elem(&vips, address) != NULL;
}

static __always_inline bool is_answered(const struct address *address)
{
	return bpf_map_lookup_elem(&answered, address) != NULL;
}

/* Both are aligned to two bytes. BPF has no memcmp. */
static __always_inline bool is_same_mac(const void *a, const void *b)
{
	const __u16 *x = a, *y = b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2])) == 0;
}

static __always_inline bool is_further_mac(const void *mac, const struct port *port)
{
	struct port_mac key = { .port = port->id };

	__builtin_memcpy(key.mac, mac, ETH_ALEN);
	return bpf_map_lookup_elem(&macs, &key) != NULL;
}

static __always_inline bool is_local(const struct address *address)
{
	return bpf_map_lookup_elem(&locals, address) != NULL;
}

/* Whether a backend has this endpoint, or all ports of its address. */
static __always_inline bool is_backend(const struct address *address, __be16 port, __u8 protocol)
{
	struct endpoint endpoint = { .address = *address, .port = port, .protocol = protocol };

	if (bpf_map_lookup_elem(&backends, &endpoint))
		return true;
	endpoint.port = ANY_PORT;
	return bpf_map_lookup_elem(&backends, &endpoint) != NULL;
}

/* Services with a port range, after all others; and packets that bypass the services. */
static __always_inline enum class classify_ranges(const struct packet *packet, __be16 port)
{
	struct endpoint endpoint = { .port = ANY_PORT, .protocol = packet->protocol };
	bool vip = is_vip(&packet->destination);

	endpoint.address = packet->destination;
	if (vip && bpf_map_lookup_elem(&services, &endpoint))
		return CLASS_SERVICE;
	endpoint.address = packet->source;
	if (bpf_map_lookup_elem(&backends, &endpoint) && !is_local(&packet->destination))
		return CLASS_REPLY;
	if (vip)
		return CLASS_OTHER;
	return is_backend(&packet->destination, port, packet->protocol) ? CLASS_DIRECT : CLASS_PASS;
}

/*
 * A fragment's protocol field holds for its whole packet: always in IPv4; in IPv6 for senders that follow
 * RFC 8200, except when the first fragment starts with extension headers.
 */
__noinline int classify_fragment(const struct packet *packet)
{
	if (!packet)
		return CLASS_PASS;
	if (is_vip(&packet->destination))
		return CLASS_FRAGMENT;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP &&
	    !is_extension(packet->protocol))
		return CLASS_PASS;
	if (bpf_map_lookup_elem(&servers, &packet->source) && !is_local(&packet->destination))
		return CLASS_FRAGMENT;
	return bpf_map_lookup_elem(&servers, &packet->destination) ? CLASS_FRAGMENT : CLASS_PASS;
}

#define CONTEXT struct xdp_md
#define OF(name) name##_xdp
#include "classify.bpf.h"
#undef CONTEXT
#undef OF
#define CONTEXT struct __sk_buff
#define OF(name) name##_skb
#include "classify.bpf.h"

/* The pseudo-header's sum (RFC 9293 section 3.1, RFC 8200 section 8.1), as a sender stores it that leaves the
 * rest to its card. Not for packets with IPv6 extension headers, whose length differs. */
static __always_inline __u16 pseudo_sum(const struct packet *packet)
{
	__u64 sum = bpf_htons(packet->len) + bpf_htons((__u16)packet->protocol);

	/* The 0xffff of mapped addresses is a zero of ones' complement. */
	for (int i = 0; i < 4; i++)
		sum += (__u64)packet->source.word[i] + packet->destination.word[i];
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Looks at the checksums of SYNs, and of one in sixteen of UDP's. */
static __always_inline void check_checksum(struct xdp_md *context, const struct packet *packet,
					   struct offloads *seen)
{
	__be16 checksum;

	if (packet->fragment)
		return;
	if (packet->protocol == IPPROTO_TCP) {
		struct tcp_start *tcp = bytes_at_xdp(context, packet->transport, sizeof(*tcp));

		if (!tcp || !(tcp->flags & TCP_SYN))
			return;
		checksum = tcp->checksum;
	} else if (packet->protocol == IPPROTO_UDP) {
		struct udp_start *udp = bytes_at_xdp(context, packet->transport, sizeof(*udp));

		if (!udp || udp->checksum == 0 || (udp->checksum & bpf_htons(0xf)) != 0)
			return;
		checksum = udp->checksum;
	} else {
		return;
	}
	seen->checked += 1;
	if (checksum == pseudo_sum(packet))
		seen->partial += 1;
}

__noinline int watch_offloads(struct xdp_md *context, const struct packet *packet, __u32 len,
			      const struct port *port)
{
	struct offloads *seen;

	if (!packet || !port)
		return 0;
	seen = bpf_map_lookup_elem(&offloads, &port->id);
	if (!seen)
		return 0;
	check_checksum(context, packet, seen);
	if (len > port->frame_max)
		seen->oversized += 1;
	return 0;
}

static __always_inline void count(__u32 class)
{
	__u64 *counter = bpf_map_lookup_elem(&classes, &class);

	if (counter)
		*counter += 1;
}

static __always_inline int steer(struct xdp_md *context, __u32 len)
{
	struct packet packet = {};
	__u32 interface = context->ingress_ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &interface);
	__u32 class;
	int action = XDP_DROP;

	if (!port)
		return XDP_PASS;
	class = classify_xdp(context, &packet, port);
	count(class);
	if (class == CLASS_PASS)
		return XDP_PASS;
	if (class == CLASS_SERVICE || class == CLASS_REPLY)
		watch_offloads(context, &packet, len, port);
	if (context->rx_queue_index < port->queues)
		action = bpf_redirect_map(&sockets, port->id * QUEUES_MAX + context->rx_queue_index,
					  XDP_DROP);
	if (action == XDP_DROP)
		count(CLASS_NO_SOCKET);
	return action;
}

SEC("xdp")
int waxwing(struct xdp_md *context)
{
	return steer(context, context->data_end - context->data);
}

/* For ports with multi-buffer frames: sees the first buffer only, which has all headers. The program above
 * also serves drivers without multi-buffer support. */
SEC("xdp.frags")
int waxwing_jumbo(struct xdp_md *context)
{
	return steer(context, bpf_xdp_get_buff_len(context));
}

static __always_inline bool has_guard_ended(void)
{
	__u32 key = 0;
	__u64 *ends = bpf_map_lookup_elem(&guard_ends, &key);

	return ends && *ends && *ends < bpf_ktime_get_ns();
}

/*
 * Runs where a frame that the program above passed, or never saw, becomes the kernel's: a veth runs no XDP
 * program on queues that are added later, until the program is set again. A copy outlives the process for a
 * while, until the next one serves: the kernel would route the replies of live sessions past NAT.
 */
SEC("classifier")
int waxwing_guard(struct __sk_buff *context)
{
	struct packet packet = {};
	__u32 interface = context->ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &interface);
	__u32 len = context->len;
	__u32 class;

	/* The headers may lie outside of the buffer's linear part. */
	if (!port || bpf_skb_pull_data(context, len < GUARD_LEN_MAX ? len : GUARD_LEN_MAX))
		return TC_ACT_UNSPEC;
	class = classify_skb(context, &packet, port);
	if (class == CLASS_PASS || has_guard_ended())
		return TC_ACT_UNSPEC;
	count(class);
	count(CLASS_NO_SOCKET);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
