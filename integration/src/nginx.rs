//! A real origin: Debian's nginx, in a folder of its own, on a port that the harness took for it.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use crate::folder::Folder;
use crate::socket::Address;

#[derive(Debug)]
pub struct Nginx {
    child: Child,
    address: Address,
    folder: Folder,
}

impl Nginx {
    /// `GET /small` answers two bytes; files can be put under `/upload/` and fetched again.
    ///
    /// The listening socket is bound here and inherited (as in a binary upgrade of nginx), so connecting works from the
    /// first moment and nobody else can have the port.
    pub fn start() -> Self {
        let small = r#"location = /small { return 200 "ok"; } location /upload/ { dav_methods PUT; }"#;
        Self::start_with(&Folder::new(), "", small)
    }

    /// In a folder that may hold certificates, with further words of `listen` and what stands in the block `server`.
    pub fn start_with(folder: &Folder, listen: &str, server: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("the listener has an address");
        fcntl_setfd(&listener, FdFlags::empty()).expect("a socket can be made inheritable");
        folder.write("www/upload/.keep", "");
        let listen = format!("{address} {listen}");
        folder.write("nginx.conf", configuration(folder, &listen, server));
        let child = Command::new("nginx")
            .args(["-p", ".", "-c", "nginx.conf", "-e", "error.log"])
            .current_dir(folder.root())
            .env("NGINX", format!("{};", listener.as_raw_fd()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        Self {
            child,
            address: Address::Tcp(address),
            folder: folder.clone(),
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Not SIGKILL: the master must end its worker first.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!(
                "--- log of nginx ---\n{}\n---",
                std::fs::read_to_string(self.folder.path("error.log")).unwrap_or_default()
            );
        }
    }
}

fn configuration(folder: &Folder, listen: &str, server: &str) -> String {
    let root = folder.root().display();
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let scratch: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {root}/{kind};\n"))
        .collect();
    format!(
        r#"
{user}
daemon off;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log notice;
events {{ worker_connections 1024; }}
http {{
    {scratch}
    access_log off;
    client_max_body_size 0;
    keepalive_requests 10000000;
    server {{
        listen {listen};
        root {root}/www;
        {server}
    }}
}}
"#
    )
}
