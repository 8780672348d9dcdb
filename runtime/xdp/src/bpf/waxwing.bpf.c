// SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0
/*
 * Steers frames to the workers' sockets; all other frames stay with the kernel.
 *
 * Invariant: a frame without a matching rule passes to the kernel unchanged; a frame with one never does.
 * From a queue without a socket, as while ports are attached again, it is dropped and counted: the kernel
 * would route it past NAT, and the receiver would reset the connection. The program never writes to a
 * frame.
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
 *   - an ICMP or ICMPv6 error to such an address, about a packet to or from a backend's endpoint;
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

static __always_inline enum recipient recipient_of(const struct ethhdr *ethernet,
						   const struct port *port)
{
	if (ethernet->h_dest[0] & 1)
		return TO_GROUP;
	for (int i = 0; i < MACS_MAX; i++) {
		if (is_same_mac(ethernet->h_dest, port->mac[i]))
			return TO_US;
	}
	return is_further_mac(ethernet->h_dest, port) ? TO_US : TO_OTHER;
}

static __always_inline enum class classify_arp(void *at, void *end)
{
	struct arp_packet *arp = at;
	struct address target;
	__be32 address;

	if ((void *)(arp + 1) > end)
		return CLASS_PASS;
	if (arp->hardware != bpf_htons(HARDWARE_ETHERNET) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_len != ETH_ALEN || arp->protocol_len != 4 ||
	    arp->operation != bpf_htons(ARP_REQUEST))
		return CLASS_PASS;
	__builtin_memcpy(&address, arp->target_address, sizeof(address));
	map_ipv4(&target, address);
	return is_answered(&target) ? CLASS_ARP : CLASS_PASS;
}

/* Fills `packet` from an IPv4 header; returns false when the header is truncated. */
static __always_inline bool parse_ipv4(struct packet *packet, void *at)
{
	struct iphdr *ip = at;

	if ((void *)(ip + 1) > packet->end || ip->version != 4 || ip->ihl < 5)
		return false;
	map_ipv4(&packet->source, ip->saddr);
	map_ipv4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	packet->fragment =
		(ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
	packet->transport = at + ip->ihl * 4;
	packet->len = bpf_ntohs(ip->tot_len) - ip->ihl * 4;
	return true;
}

/* Fills `packet` from an IPv6 header and its extension headers; returns false when one is truncated. */
static __always_inline bool parse_ipv6(struct packet *packet, void *at)
{
	struct ipv6hdr *ip = at;
	__u8 next;

	if ((void *)(ip + 1) > packet->end || ip->version != 6)
		return false;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->fragment = false;
	packet->len = bpf_ntohs(ip->payload_len);
	next = ip->nexthdr;
	at = ip + 1;
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		__u8 *extension = at;

		if (next == IPPROTO_FRAGMENT) {
			struct fragment_header *fragment = at;

			if ((void *)(fragment + 1) > packet->end)
				return false;
			next = fragment->next;
			at = fragment + 1;
			packet->fragment = (fragment->offset_more & bpf_htons(IPV6_FRAGMENT)) != 0;
			if (packet->fragment)
				break;
			continue;
		}
		if (!is_extension(next))
			break;
		if ((void *)(extension + 2) > packet->end)
			return false;
		next = extension[0];
		at += (extension[1] + 1) * 8;
	}
	packet->protocol = next;
	packet->transport = at;
	return true;
}

static __always_inline enum class classify_solicitation(const struct packet *packet)
{
	struct solicitation *solicitation = packet->transport;
	struct address target;

	if ((void *)(solicitation + 1) > packet->end ||
	    solicitation->type != NEIGHBOR_SOLICITATION)
		return CLASS_PASS;
	__builtin_memcpy(&target, &solicitation->target, sizeof(target));
	return is_answered(&target) ? CLASS_NDP : CLASS_PASS;
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

static __always_inline enum class classify_transport(const struct packet *packet)
{
	struct transport_ports *transport = packet->transport;
	struct endpoint endpoint = {};

	if ((void *)(transport + 1) > packet->end)
		return CLASS_PASS;
	endpoint.address = packet->destination;
	endpoint.port = transport->destination;
	endpoint.protocol = packet->protocol;
	if (bpf_map_lookup_elem(&services, &endpoint))
		return CLASS_SERVICE;
	endpoint.address = packet->source;
	endpoint.port = transport->source;
	if (bpf_map_lookup_elem(&backends, &endpoint) && !is_local(&packet->destination))
		return CLASS_REPLY;
	return classify_ranges(packet, transport->destination);
}

/*
 * A fragment's protocol field holds for its whole packet: always in IPv4; in IPv6 for senders that follow
 * RFC 8200, except when the first fragment starts with extension headers.
 */
static __always_inline enum class classify_fragment(const struct packet *packet)
{
	if (is_vip(&packet->destination))
		return CLASS_FRAGMENT;
	if (packet->protocol != IPPROTO_TCP && packet->protocol != IPPROTO_UDP &&
	    !is_extension(packet->protocol))
		return CLASS_PASS;
	if (bpf_map_lookup_elem(&servers, &packet->source) && !is_local(&packet->destination))
		return CLASS_FRAGMENT;
	return bpf_map_lookup_elem(&servers, &packet->destination) ? CLASS_FRAGMENT : CLASS_PASS;
}

static __always_inline bool is_error(const struct packet *packet)
{
	__u8 *type = packet->transport;

	if ((void *)(type + ICMP_HEADER_LEN) > packet->end)
		return false;
	/* Destination unreachable, time exceeded, parameter problem. */
	if (packet->protocol == IPPROTO_ICMP)
		return *type == 3 || *type == 11 || *type == 12;
	/* The same three, and packet too big. */
	return *type >= 1 && *type <= 4;
}

/* Fills `quoted` from an error's quote; returns false unless the quote is the start of a packet. */
static __always_inline bool parse_quoted(struct packet *quoted, const struct packet *error)
{
	void *at = error->transport + ICMP_HEADER_LEN;
	struct fragment_header *fragment;

	if (error->protocol == IPPROTO_ICMP) {
		struct iphdr *ip = at;

		return parse_ipv4(quoted, at) &&
		       (ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)) == 0;
	}
	if (!parse_ipv6(quoted, at))
		return false;
	if (!quoted->fragment)
		return true;
	/* A fragment's data follows its fragment header directly. */
	fragment = quoted->transport - sizeof(*fragment);
	return (fragment->offset_more & bpf_htons(IPV6_FRAGMENT_OFFSET)) == 0;
}

/* An error from the servers' side about a packet to a backend is addressed to the packet's source, the
 * client; one from the clients' side about a packet of a client that bypasses the VIP, to the backend. */
static __always_inline enum class classify_error(const struct packet *packet)
{
	struct packet quoted = { .end = packet->end };
	struct transport_ports *transport;
	bool about_backend;

	if (!is_error(packet) || !parse_quoted(&quoted, packet))
		return CLASS_PASS;
	transport = quoted.transport;
	if ((void *)(transport + 1) > packet->end)
		return CLASS_PASS;
	about_backend =
		is_backend(&quoted.destination, transport->destination, quoted.protocol) ||
		is_backend(&quoted.source, transport->source, quoted.protocol);
	return about_backend && !is_local(&packet->destination) ? CLASS_ERROR : CLASS_PASS;
}

static __always_inline enum class classify_ip(const struct packet *packet, enum recipient to)
{
	bool icmp = packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6;

	if (to == TO_OTHER && is_vip(&packet->destination))
		return CLASS_PASS;
	if (packet->protocol == IPPROTO_ICMPV6 && !packet->fragment && to != TO_OTHER) {
		enum class class = classify_solicitation(packet);

		if (class != CLASS_PASS)
			return class;
	}
	/* A unicast packet in a multicast or broadcast frame is not for this host (RFC 1122 section 3.3.6). */
	if (to == TO_GROUP)
		return CLASS_PASS;
	if (packet->fragment)
		return classify_fragment(packet);
	if (icmp)
		return is_vip(&packet->destination) ? CLASS_ICMP : classify_error(packet);
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP)
		return classify_transport(packet);
	return is_vip(&packet->destination) ? CLASS_OTHER : CLASS_PASS;
}

static __always_inline enum class classify(struct packet *packet, void *data,
					   const struct port *port)
{
	struct ethhdr *ethernet = data;
	void *end = packet->end;
	void *at = ethernet + 1;
	__be16 protocol;
	enum recipient to;

	if (at > end)
		return CLASS_PASS;
	to = recipient_of(ethernet, port);
	if (to == TO_OTHER && !port->bridged)
		return CLASS_PASS;
	protocol = ethernet->h_proto;
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag = at;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > end)
			return CLASS_PASS;
		protocol = tag->protocol;
		at = tag + 1;
	}
	if (protocol == bpf_htons(ETH_P_ARP))
		return to == TO_OTHER ? CLASS_PASS : classify_arp(at, end);
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(packet, at) ? classify_ip(packet, to) : CLASS_PASS;
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(packet, at) ? classify_ip(packet, to) : CLASS_PASS;
	return CLASS_PASS;
}

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
static __always_inline void check_checksum(const struct packet *packet, struct offloads *seen)
{
	__be16 checksum;

	if (packet->fragment)
		return;
	if (packet->protocol == IPPROTO_TCP) {
		struct tcp_start *tcp = packet->transport;

		if ((void *)(tcp + 1) > packet->end || !(tcp->flags & TCP_SYN))
			return;
		checksum = tcp->checksum;
	} else if (packet->protocol == IPPROTO_UDP) {
		struct udp_start *udp = packet->transport;

		if ((void *)(udp + 1) > packet->end || udp->checksum == 0 ||
		    (udp->checksum & bpf_htons(0xf)) != 0)
			return;
		checksum = udp->checksum;
	} else {
		return;
	}
	seen->checked += 1;
	if (checksum == pseudo_sum(packet))
		seen->partial += 1;
}

static __always_inline void watch_offloads(const struct packet *packet, __u32 len,
					   const struct port *port)
{
	struct offloads *seen = bpf_map_lookup_elem(&offloads, &port->id);

	if (!seen)
		return;
	check_checksum(packet, seen);
	if (len > port->frame_max)
		seen->oversized += 1;
}

static __always_inline void count(__u32 class)
{
	__u64 *counter = bpf_map_lookup_elem(&classes, &class);

	if (counter)
		*counter += 1;
}

static __always_inline int steer(struct xdp_md *context, __u32 len)
{
	void *data = (void *)(long)context->data;
	struct packet packet = { .end = (void *)(long)context->data_end };
	__u32 interface = context->ingress_ifindex;
	struct port *port = bpf_map_lookup_elem(&ports, &interface);
	__u32 class;
	int action = XDP_DROP;

	if (!port)
		return XDP_PASS;
	class = classify(&packet, data, port);
	count(class);
	if (class == CLASS_PASS)
		return XDP_PASS;
	if (class == CLASS_SERVICE || class == CLASS_REPLY)
		watch_offloads(&packet, len, port);
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

char LICENSE[] SEC("license") = "Dual MIT/GPL";
