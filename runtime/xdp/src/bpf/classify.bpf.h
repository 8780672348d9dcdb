/* SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0 */
/*
 * Which class a frame has. Included once for each kind of program: `CONTEXT` is what such a program gets, and
 * `OF(name)` names the functions that read its frame.
 */

/* Returns `len` bytes of the frame from an offset, or NULL if it does not have them. */
static __always_inline void *OF(bytes_at)(CONTEXT *context, __u32 at, __u32 len)
{
	void *end = (void *)(long)context->data_end;
	void *bytes = (void *)(long)context->data;

	if (at > HEADERS_MAX)
		return NULL;
	bytes += at;
	return bytes + len > end ? NULL : bytes;
}

__noinline int OF(recipient_of)(CONTEXT *context, const struct port *port)
{
	struct ethhdr *ethernet = OF(bytes_at)(context, 0, sizeof(*ethernet));

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

__noinline int OF(classify_arp)(CONTEXT *context, __u32 at)
{
	struct arp_packet *arp = OF(bytes_at)(context, at, sizeof(*arp));
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
__noinline int OF(parse_ipv4)(CONTEXT *context, __u32 at, struct packet *packet)
{
	struct iphdr *ip = OF(bytes_at)(context, at, sizeof(*ip));

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
static __always_inline bool OF(skip_extensions)(CONTEXT *context, struct packet *packet)
{
	for (int i = 0; i < EXTENSIONS_MAX; i++) {
		if (packet->protocol == IPPROTO_FRAGMENT) {
			struct fragment_header *fragment;

			fragment = OF(bytes_at)(context, packet->transport, sizeof(*fragment));
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
			__u8 *extension = OF(bytes_at)(context, packet->transport, 2);

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
__noinline int OF(parse_ipv6)(CONTEXT *context, __u32 at, struct packet *packet)
{
	struct ipv6hdr *ip = OF(bytes_at)(context, at, sizeof(*ip));

	if (!packet || !ip || ip->version != 6)
		return false;
	__builtin_memcpy(&packet->source, &ip->saddr, sizeof(packet->source));
	__builtin_memcpy(&packet->destination, &ip->daddr, sizeof(packet->destination));
	packet->fragment = false;
	packet->has_transport = true;
	packet->len = bpf_ntohs(ip->payload_len);
	packet->protocol = ip->nexthdr;
	packet->transport = at + sizeof(*ip);
	return OF(skip_extensions)(context, packet);
}

static __always_inline enum class OF(classify_solicitation)(CONTEXT *context,
							const struct packet *packet)
{
	struct solicitation *solicitation;
	struct address target;

	solicitation = OF(bytes_at)(context, packet->transport, sizeof(*solicitation));
	if (!solicitation || solicitation->type != NEIGHBOR_SOLICITATION)
		return CLASS_PASS;
	__builtin_memcpy(&target, &solicitation->target, sizeof(target));
	return is_answered(&target) ? CLASS_NDP : CLASS_PASS;
}

__noinline int OF(classify_transport)(CONTEXT *context, const struct packet *packet)
{
	struct transport_ports *transport;
	struct endpoint endpoint = {};

	if (!packet)
		return CLASS_PASS;
	transport = OF(bytes_at)(context, packet->transport, sizeof(*transport));
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

static __always_inline bool OF(is_error)(CONTEXT *context, const struct packet *packet)
{
	__u8 *type = OF(bytes_at)(context, packet->transport, ICMP_HEADER_LEN);

	if (!type)
		return false;
	/* Destination unreachable, redirect, time exceeded, parameter problem. */
	if (packet->protocol == IPPROTO_ICMP)
		return *type == 3 || *type == 5 || *type == 11 || *type == 12;
	/* The same but a redirect, which no router forwards, and packet too big. */
	return *type >= 1 && *type <= 4;
}

/* An error from the servers' side about a packet to a backend is addressed to the packet's source, the
 * client; one from the clients' side about a packet of a client that bypasses the VIP, to the backend. */
__noinline int OF(classify_error)(CONTEXT *context, const struct packet *packet)
{
	struct packet quoted = {};
	struct transport_ports *transport;
	bool about_backend;
	int parsed;
	__u32 at;

	if (!packet || !OF(is_error)(context, packet))
		return CLASS_PASS;
	at = packet->transport + ICMP_HEADER_LEN;
	parsed = packet->protocol == IPPROTO_ICMP ? OF(parse_ipv4)(context, at, &quoted) :
						    OF(parse_ipv6)(context, at, &quoted);
	/* The quote of a later fragment has no ports. */
	if (!parsed || !quoted.has_transport)
		return CLASS_PASS;
	transport = OF(bytes_at)(context, quoted.transport, sizeof(*transport));
	if (!transport)
		return CLASS_PASS;
	about_backend =
		is_backend(&quoted.destination, transport->destination, quoted.protocol) ||
		is_backend(&quoted.source, transport->source, quoted.protocol);
	return about_backend && !is_local(&packet->destination) ? CLASS_ERROR : CLASS_PASS;
}

__noinline int OF(classify_ip)(CONTEXT *context, const struct packet *packet, int to)
{
	if (!packet || (to == TO_OTHER && is_vip(&packet->destination)))
		return CLASS_PASS;
	if (packet->protocol == IPPROTO_ICMPV6 && !packet->fragment && to != TO_OTHER) {
		enum class class = OF(classify_solicitation)(context, packet);

		if (class != CLASS_PASS)
			return class;
	}
	/* A unicast packet in a multicast or broadcast frame is not for this host (RFC 1122 section 3.3.6). */
	if (to == TO_GROUP)
		return CLASS_PASS;
	if (packet->fragment)
		return classify_fragment(packet);
	if (packet->protocol == IPPROTO_TCP || packet->protocol == IPPROTO_UDP)
		return OF(classify_transport)(context, packet);
	if (is_vip(&packet->destination))
		return packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6 ?
			       CLASS_ICMP :
			       CLASS_OTHER;
	if (packet->protocol == IPPROTO_ICMP || packet->protocol == IPPROTO_ICMPV6)
		return OF(classify_error)(context, packet);
	return CLASS_PASS;
}

static __always_inline enum class OF(classify)(CONTEXT *context, struct packet *packet,
					   const struct port *port)
{
	int to = OF(recipient_of)(context, port);
	struct ethhdr *ethernet = OF(bytes_at)(context, 0, sizeof(*ethernet));
	__u32 at = sizeof(*ethernet);
	__be16 protocol;

	if (to == TO_NOBODY || !ethernet)
		return CLASS_PASS;
	protocol = ethernet->h_proto;
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag;

		if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD))
			break;
		tag = OF(bytes_at)(context, at, sizeof(*tag));
		if (!tag)
			return CLASS_PASS;
		protocol = tag->protocol;
		at += sizeof(*tag);
	}
	if (protocol == bpf_htons(ETH_P_ARP))
		return to == TO_OTHER ? CLASS_PASS : OF(classify_arp)(context, at);
	if (protocol == bpf_htons(ETH_P_IP) && OF(parse_ipv4)(context, at, packet))
		return OF(classify_ip)(context, packet, to);
	if (protocol == bpf_htons(ETH_P_IPV6) && OF(parse_ipv6)(context, at, packet))
		return OF(classify_ip)(context, packet, to);
	return CLASS_PASS;
}
