/* SPDX-License-Identifier: GPL-2.0-only OR MIT OR Apache-2.0 */
/*
 * What the program reads: headers of frames, and the maps that the balancer fills.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

/* An 802.1ad service tag and an 802.1Q customer tag. */
#define VLAN_TAGS_MAX 2
/* Maximum number of IPv6 extension headers; RFC 8200 lists six kinds. */
#define EXTENSIONS_MAX 6

/* No header that is read starts behind this. */
#define HEADERS_MAX 0x3fff
/* The part of a frame in which the guard looks for headers. */
#define GUARD_LEN_MAX 2048

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_FRAGMENT_OFFSET 0x1fff
/* Offset and "more fragments"; both are zero in an atomic fragment, a whole packet (RFC 6946). */
#define IPV6_FRAGMENT 0xfff9
#define IPV6_FRAGMENT_OFFSET 0xfff8
#define ICMP_HEADER_LEN 8
#define NEIGHBOR_SOLICITATION 135
#define ARP_REQUEST 1
#define TCP_SYN 0x02
/* Instead of a port: all ports. */
#define ANY_PORT 0
#define HARDWARE_ETHERNET 1
/* The port's own MAC, and, if it is bridged, those of the other port and of the bridge. */
#define MACS_MAX 3
/* Sockets per port in the map; `QUEUES_MAX` in program.rs. */
#define QUEUES_MAX 4096

/* A frame's class: the index of its counter. `Class` in program.rs mirrors this enum. */
enum class {
	CLASS_PASS,
	CLASS_SERVICE,
	CLASS_REPLY,
	CLASS_ICMP,
	CLASS_FRAGMENT,
	CLASS_ARP,
	CLASS_NDP,
	CLASS_OTHER,
	CLASS_ERROR,
	CLASS_DIRECT,
	/* Besides its class: dropped, because its queue has no socket, or no program yet. */
	CLASS_NO_SOCKET,
	CLASS_COUNT,
};

/* In network order; IPv4 in mapped form, ::ffff:a.b.c.d (RFC 4291 section 2.5.5.2). */
struct address {
	__u32 word[4];
};

struct endpoint {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

struct port {
	__u32 id;
	__u32 queues;
	/* The longest frame that fits its MTU. */
	__u32 frame_max;
	__u8 mac[MACS_MAX][ETH_ALEN];
	__u8 bridged;
	__u8 zero;
};

/* A further MAC of a port, of a macvlan device on it. */
struct port_mac {
	__u32 port;
	__u8 mac[ETH_ALEN];
	__u16 zero;
};

/* Signs that the sender leaves work to a network card that does not exist, by port. */
struct offloads {
	/* SYNs, and a sample of UDP. */
	__u64 checked;
	/* Of these, whose checksum covers only the pseudo-header. */
	__u64 partial;
	/* Frames longer than the MTU. */
	__u64 oversized;
};

/* A frame's destination MAC: the balancer, a multicast or broadcast group, another host behind a bridge, or
 * nobody here. */
enum recipient {
	TO_US,
	TO_GROUP,
	TO_OTHER,
	TO_NOBODY,
};

struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

/* RFC 826 for IPv4 over Ethernet. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_address[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_address[4];
} __attribute__((packed));

/* RFC 4861 section 4.3. */
struct solicitation {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__u32 reserved;
	struct address target;
};

/* RFC 8200 section 4.5. */
struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset_more;
	__be32 identification;
};

struct transport_ports {
	__be16 source;
	__be16 destination;
};

/* RFC 9293 section 3.1, up to the checksum. */
struct tcp_start {
	struct transport_ports ports;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
};

/* RFC 768. */
struct udp_start {
	struct transport_ports ports;
	__be16 len;
	__be16 checksum;
};

/* The map sizes are placeholders; the loader sets them from its options. */
#define ENDPOINTS(name)                                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, 1);                                                            \
		__type(key, struct endpoint);                                                      \
		__type(value, __u8);                                                               \
	} name SEC(".maps")

#define ADDRESSES(name)                                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, 1);                                                            \
		__type(key, struct address);                                                       \
		__type(value, __u8);                                                               \
	} name SEC(".maps")

ENDPOINTS(services);
ENDPOINTS(backends);
ADDRESSES(servers);
ADDRESSES(vips);
ADDRESSES(answered);

/* Not preallocated: few hosts have many addresses, and it has room for all of them. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct address);
	__type(value, __u8);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct port_mac);
	__type(value, __u8);
} macs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct offloads);
} offloads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32); /* interface index */
	__type(value, struct port);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, CLASS_COUNT);
	__type(key, __u32);
	__type(value, __u64);
} classes SEC(".maps");

/* When a guard that outlives its process ends, by the monotonic clock in ns; 0 while the process lives. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} guard_ends SEC(".maps");

/* What rules look at of a packet. It has no pointers, so that functions of their own can take it: the verifier
 * looks at each of them once, and not once for each way that leads to it. */
struct packet {
	struct address source;
	struct address destination;
	/* Where its transport header is, in bytes from the frame's start. */
	__u32 transport;
	/* Of transport header and payload; in IPv6 with extension headers. */
	__u16 len;
	__u8 protocol;
	bool fragment;
	/* Whether its transport header is in this frame: it is no later fragment. */
	bool has_transport;
	__u8 zero[3];
};
