//! Who may ask the balancer, and who may change it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use nix::unistd::Group;
use waxwing_control::admin::client::Client;
use waxwing_control::admin::requests::SetWeight;

use crate::balancer::{Bed, WEB, load, setup};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A group that this process is in.
fn own_group() -> String {
    let group = Group::from_gid(nix::unistd::getegid()).unwrap();
    group.unwrap().name
}

impl Bed {
    /// The status and body of an answer on the TCP port.
    fn tcp(&self, request: String) -> (u16, String) {
        let asked = std::thread::spawn(move || {
            let mut stream = TcpStream::connect("127.0.0.1:9118").unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        });
        // The balancer runs on this thread.
        while !asked.is_finished() {
            self.pause(5);
        }
        let answer = asked.join().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }
}

pub(crate) fn read_socket() {
    let group = own_group();
    let admin = format!("group = \"{group}\"\nread_socket = \"read.sock\"\n");
    let bed = Bed::with_loopback(&format!("{admin}#services\n{WEB}"));
    let file = |name: &str| std::fs::metadata(bed.folder.path().join(name)).unwrap();
    let mode = |name| file(name).permissions().mode() & 0o777;
    assert_eq!((mode("admin.sock"), mode("read.sock")), (0o660, 0o666));
    assert_eq!(file("admin.sock").gid(), nix::unistd::getegid().as_raw());
    assert_eq!(mode("admin.sock.upgrade"), 0o600);

    let reader = Client::new(&bed.folder.path().join("read.sock"));
    assert_eq!(
        bed.wait(reader.status(None)).unwrap().services[0].name,
        "web"
    );
    let request = SetWeight {
        service: "web".into(),
        backend: "10.77.0.2:8080".into(),
        weight: Some(9),
    };
    for path in [
        "/v1/backends/weight",
        "/v1/backends",
        "/v1/backends/add",
        "/v1/backends/remove",
        "/v1/reload",
        "/v1/sessions/kill",
    ] {
        let refused = bed
            .wait(reader.change(path, &request))
            .unwrap_err()
            .to_string();
        let words = ["Not Found", "Method Not Allowed"];
        assert!(
            words.iter().any(|it| refused.contains(it)),
            "{path}: {refused}"
        );
    }
    let backend = bed.status().services[0].backends[0].clone();
    assert_eq!(backend.health.unwrap().operator_weight, None);
    bed.wait(bed.client.change("/v1/backends/weight", &request))
        .unwrap();
}

pub(crate) fn tcp_port() {
    let admin = "listen = \"127.0.0.1:9118\"\ntoken_file = \"token\"\n";
    // Written before the balancer reads it: its folder is made by then.
    let bed = Bed::prepared(&format!("{admin}#services\n{WEB}"), |folder| {
        std::fs::write(folder.join("token"), format!("{TOKEN}\n")).unwrap();
    });
    let ask = |method: &str, target: &str, headers: &str| {
        bed.tcp(format!("{method} {target} HTTP/1.0\r\n{headers}\r\n"))
    };
    let host = "host: 127.0.0.1:9118\r\n";
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    let (status, body) = ask("GET", "/v1/services", &format!("{host}{token}"));
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("\"web\""), "{body}");
    let (status, _) = ask("POST", "/v1/reload", &format!("{host}{token}"));
    assert_eq!(status, 200);
    for (headers, expected) in [
        (host.to_owned(), 401),
        (
            format!(
                "{host}authorization: Bearer {}\r\n",
                TOKEN.replace('f', "e")
            ),
            401,
        ),
        (format!("host: evil.example\r\n{token}"), 421),
        (format!("{host}{token}origin: http://evil.example\r\n"), 403),
    ] {
        for (method, target) in [
            ("GET", "/v1/services"),
            ("POST", "/v1/reload"),
            ("GET", "/no"),
        ] {
            let (status, body) = ask(method, target, &headers);
            assert_eq!(status, expected, "{method} {target} {headers}: {body}");
            assert!(!body.contains("web"), "{body}");
        }
    }
}

pub(crate) fn refused_access() {
    let bed = Bed::new(WEB);
    let prepare = |admin: &str| {
        bed.write(&format!("{admin}#services\n{WEB}"));
        bed.wait(async {
            let checked = load(bed.folder.path()).await?;
            let prepared =
                waxwing_control::run::Control::prepare(setup(checked, &bed.shared, &bed.book));
            prepared.await.map(drop).map_err(|e| e.to_string())
        })
    };
    for (admin, part) in [
        (
            "group = \"no-such-group\"\n",
            "there is no group no-such-group",
        ),
        (
            "read_group = \"daemon\"\n",
            "has no effect without `read_socket`",
        ),
        ("listen = \"127.0.0.1:9118\"\n", "write `token_file` too"),
        ("token_file = \"token\"\n", "has no effect without `listen`"),
        (
            "listen = \"192.0.2.1:9118\"\ntoken_file = \"token\"\n",
            "is no loopback address",
        ),
    ] {
        let error = prepare(admin).unwrap_err();
        assert!(error.contains(part), "{admin}: {error}");
    }
}
