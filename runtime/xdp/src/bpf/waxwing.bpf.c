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

/* Returns `len` bytes of the frame from an offset, or NULL if it does not have them. */
static __always_inline void *bytes_at(struct xdp_md *context, __u32 at, __u32 len)
{
	void *end = (void *)(long)context->data_end;
	void *bytes = (void *)(long)context->data;

	if (at > HEADERS_MAX)
		return NULL;
	bytes += at;
	return bytes + len > end ? NULL : bytes;
}

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

__noinline int recipient_of(struct xdp_md *context, const struct port *port)
{
	struct ethhdr *ethernet = bytes_at(context, 0, sizeof(*ethernet));

	if (!ethernet || !port)
		return TO_NOBODY;
	if (ethernet->h_dest[0] & 1)
		return TO_GROUP;
	for (int i = 0; i < MACS_MAX; i++) {
		if (is_same_mac(ethernet->h_dest, port->mac[i]))
			return TO_US;
	}
	if (is_further_mac(ethernet->h_dest, port))
		return TO_US;
	return port->bridged ? TO_OTHER : TO_NOBODY;
}

__noinline int classify_arp(struct xdp_md *context, __u32 at)
{
	struct arp_packet *arp = bytes_at(context, at, sizeof(*arp));
	struct address target;
	__be32 address;

	if (!arp)
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
__noinline int parse_ipv4(struct xdp_md *context, __u32 at, struct packet *packet)
{
	struct iphdr *ip = bytes_at(context, at, sizeof(*ip));

	if (!packet || !ip || ip->version != 4 || ip->ihl < 5)
		return false;
	map_ipv4(&packet->source, ip->saddr);
	map_ipv4(&packet->destination, ip->daddr);
	packet->protocol = ip->protocol;
	packet->fragment =
		(ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_FRAGMENT_OFFSET)) != 0;
	packet->has_transport = (ip->frag_off & bpf_htons(IPV4_FRAGMENT_OFFSET)) == 0;
	packet->transport = at + ip->ihl * 4;
	packet->len = bpf_ntohs(ip->tot_len) - ip->ihl * 4;
	return true;
}

/* Follows IPv6 extension headers from `packet->transport` on; returns false when one is truncated. */
static __always_inline bool skip_extensions(struct xdp_md *context, struct packet *packet)
{
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (packet->protocol == IPPROTO_FRAGMENT) {
			struct fragment_header *fragment;

			fragment = bytes_at(context, packet->transport, sizeof(*fragment));
			if (!fragment)
				return false;
			packet->protocol = fragment->next;
			packet->transport += sizeof(*fragment);
			packet->fragment = (fragment->offset_more & bpf_htons(IPV6_FRAGMENT)) != 0;
			packet->has_transport =
				(fragment->offset_more & bpf_htons(IPV6_FRAGMENT_OFFSET)) == 0;
			/* What follows belongs to the whole packet. */
			if (packet->fragment)
				return true;
		} else if (is_extension(packet->protocol)) {
			__u8 *extension = bytes_at(context, packet->transport, 2);

			if (!extension)
				return false;
			packet->protocol = extension[0];
			packet->transport += (extension[1] + 1) * 8;
		} else {
			return true;
		}
	}
	return true;
}

/* Fills `packet` from an IPv6 header and its extension headers; returns false when one is truncated. */
__noinline int parse_ipv6(struct xdp_md *context, __u32 at, struct packet *packet)
{
	struct ipv6hdr *ip = bytes_at(context, at, sizeof(*ip));

	if (!packet || !ip || ip->version != 6)
		return false;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->fragment = false;
	packet->has_transport = true;
	packet->len = bpf_ntohs(ip->payload_len);
	packet->protocol = ip->nexthdr;
	packet->transport = at + sizeof(*ip);
	return skip_extensions(context, packet);
}

static __always_inline enum class classify_solicitation(struct xdp_md *context,
							const struct packet *packet)
{
	struct solicitation *solicitation;
	struct address target;

	solicitation = bytes_at(context, packet->transport, sizeof(*solicitation));
	if (!solicitation || solicitation->type != NEIGHBOR_SOLICITATION)
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

__noinline int classify_transport(struct xdp_md *context, const struct packet *packet)
{
	struct transport_ports *transport;
	struct endpoint endpoint = {};

	if (!packet)
		return CLASS_PASS;
	transport = bytes_at(context, packet->transport, sizeof(*transport));
	if (!transport)
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

static __always_inline bool is_error(struct xdp_md *context, const struct packet *packet)
{
	__u8 *type = bytes_at(context, packet->transport, ICMP_HEADER_LEN);

	if (!type)
		return false;
	/* Destination unreachable, time exceeded, parameter problem. */
	if (packet->protocol == IPPROTO_ICMP)
		return *type == 3 || *type == 11 || *type == 12;
	/* The same three, and packet too big. */
	return *type >= 1 && *type <= 4;
}

/* An error from the servers' side about a packet to a backend is addressed to the packet's source, the
 * client; one from the clients' side about a packet of a client that bypasses the VIP, to the backend. */
__noinline int classify_error(struct xdp_md *context, const struct packet *packet)
{
	struct packet quoted = {};
	struct transport_ports *transport;
	bool about_backend;
	int parsed;
	__u32 at;

	if (!packet || !is_error(context, packet))
		return CLASS_PASS;
	at = packet->transport + ICMP_HEADER_LEN;
	parsed = packet->protocol == IPPROTO_ICMP ? parse_ipv4(context, at, &quoted) :
						    parse_ipv6(context, at, &quoted);
	/* The quote of a later fragment has no ports. */
	if (!parsed || !quoted.has_transport)
		return CLASS_PASS;
	transport = bytes_at(context, quoted.transport, sizeof(*transport));
	if (!transport)
		return CLASS_PASS;
	about_backend =
		is_backend(&quoted.destination, transport->destination, quoted.protocol) ||
		is_backend(&quoted.source, transport->source, quoted.protocol);
	return about_backend && !is_local(&packet->destination) ? CLASS_ERROR : CLASS_PASS;
}

__noinline int classify_ip(struct xdp_md *context, const struct packet *packet, int to)
{
	if (!packet || (to == TO_OTHER && is_vip(&packet->destination)))
		return CLASS_PASS;
	if (packet->protocol == IPPROTO_ICMPV6 && !packet->fragment && to != TO_OTHER) {
		enum class class = classify_solicitation(context, packet);

		if (class != CLASS_PASS)
			return class;
	}
	/* A unicast packet in a multicast or broadcast frame is not for this host (RFC 1122 section 3.3.6). */
	if (to == TO_GROUP)
		return CLASS_PASS;
	if (packet->fragment)
		return classify_fragment(packet);
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP)
		return classify_transport(context, packet);
	if (is_vip(&packet->destination))
		return packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6 ?
			       CLASS_ICMP :
			       CLASS_OTHER;
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6)
		return classify_error(context, packet);
	return CLASS_PASS;
}

static __always_inline enum class classify(struct xdp_md *context, struct packet *packet,
					   const struct port *port)
{
	int to = recipient_of(context, port);
	struct ethhdr *ethernet = bytes_at(context, 0, sizeof(*ethernet));
	__u32 at = sizeof(*ethernet);
	__be16 protocol;

	if (to == TO_NOBODY || !ethernet)
		return CLASS_PASS;
	protocol = ethernet->h_proto;
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		tag = bytes_at(context, at, sizeof(*tag));
		if (!tag)
			return CLASS_PASS;
		protocol = tag->protocol;
		at += sizeof(*tag);
	}
	if (protocol == bpf_htons(ETH_P_ARP))
		return to == TO_OTHER ? CLASS_PASS : classify_arp(context, at);
	if (protocol == bpf_htons(ETH_P_IP) && parse_ipv4(context, at, packet))
		return classify_ip(context, packet, to);
	if (protocol == bpf_htons(ETH_P_IPV6) && parse_ipv6(context, at, packet))
		return classify_ip(context, packet, to);
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
static __always_inline void check_checksum(struct xdp_md *context, const struct packet *packet,
					   struct offloads *seen)
{
	__be16 checksum;

	if (packet->fragment)
		return;
	if (packet->protocol == IPPROTO_TCP) {
		struct tcp_start *tcp = bytes_at(context, packet->transport, sizeof(*tcp));

		if (!tcp || !(tcp->flags & TCP_SYN))
			return;
		checksum = tcp->checksum;
	} else if (packet->protocol == IPPROTO_UDP) {
		struct udp_start *udp = bytes_at(context, packet->transport, sizeof(*udp));

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
	class = classify(context, &packet, port);
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

char LICENSE[] SEC("license") = "Dual MIT/GPL";
