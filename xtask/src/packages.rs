//! Debian and Ubuntu packages, by what needs them.

/// To build: the XDP program, and the C libraries below the sockets.
pub(crate) const BUILD: &[&str] = &[
    "build-essential", // the C libraries below the AF_XDP sockets, the fuzzer
    "clang",           // compiles the XDP program
    "libbpf-dev",      // the XDP program's headers
    "libclang-dev",    // the bindings of those libraries
    "libelf-dev",
    "zlib1g-dev",
    "m4",
    "pkg-config",
];

/// For tests and the demo: real servers, clients and tools.
pub(crate) const PEERS: &[&str] = &[
    "iproute2", // network namespaces
    "ethtool",  // their interfaces' offloads
    "iputils-ping",
    "iputils-tracepath",
    "traceroute",
    "nginx-light",
    "openssl", // nginx's certificate
    "curl",
    "wrk",
    "iperf3",
    "tcpdump", // shows VLAN tags
    "tshark",  // reads captures
    "redis-server",
    "dnsmasq-base", // the program without the service
    "postgresql",
    "mariadb-server-core", // likewise
    "nftables",            // firewalled servers
    "procps",              // sysctl
    "python3-venv",        // for PYTHON
    "prometheus",          // scrapes the metrics; promtool checks them
    "chromium",            // shows the page
    "chromium-driver",     // and presses its keys
    "util-linux",          // setpriv, taskset
];

/// From the Python Package Index, for tests.
pub(crate) const PYTHON: &[&str] = &[
    "schemathesis==4.32.5", // tries the admin API by its description
];

/// To test in a virtual machine.
pub(crate) const MACHINE: &[&str] = &[
    "qemu-system-x86",
    "kmod",                   // indexes and loads its kernel's modules
    "debian-archive-keyring", // verifies its kernel
];

/// To test the package in a container.
pub(crate) const CONTAINER: &[&str] = &[
    "debootstrap",
    "systemd-container",
    "debian-archive-keyring", // verifies its packages, also on Ubuntu
];

/// To build for ARM64 and to run that.
pub(crate) const ARM64: &[&str] = &[
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
];

/// The peers in the virtual machine's bench.
pub(crate) const MACHINE_PEERS: &[&str] = &["ipvsadm"];

/// The peers in the wire bench.
pub(crate) const WIRE: &[&str] = &["haproxy", "libnginx-mod-stream"];

/// Packages that install a service, and its systemd unit: it must not run beside the tests' own servers.
pub(crate) const SERVICES: &[(&str, &str)] = &[
    ("nginx-light", "nginx"),
    ("redis-server", "redis-server"),
    ("postgresql", "postgresql"),
    ("ipvsadm", "ipvsadm"),
    ("haproxy", "haproxy"),
    ("prometheus", "prometheus"),
];

/// Debian's compiler for Wasm, if rustup cannot install its target.
pub(crate) const WASM: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev",
    "rust-web-src",
    "lld",
];

/// To count instructions.
pub(crate) const COUNT: &[&str] = &["valgrind"];
