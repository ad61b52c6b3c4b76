//! A real origin: Debian's Apache, in a folder of its own.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::folder::Folder;
use crate::socket::Address;
use crate::wait::wait_until;

/// Ports tried: another program may take one between our look and Apache's.
const ATTEMPTS: usize = 5;
/// Started by root it serves as this user, which Debian has.
const USER: &str = "www-data";

#[derive(Debug)]
pub struct Apache {
    child: Child,
    address: Address,
    folder: Folder,
}

impl Apache {
    /// Serves `www/`; files can be put under `/upload/`, `/small-only/` takes bodies of a KiB, `/packed/` compresses.
    /// Every third answer ends its connection.
    pub fn start() -> Self {
        let folder = Folder::new();
        for name in ["www/upload/.keep", "www/small-only/.keep"] {
            folder.write(name, "");
        }
        folder.write("www/small", "ok");
        folder.write("www/packed/text.txt", "again and again ".repeat(10_000));
        for name in ["", "www", "www/upload", "www/small-only"] {
            let all = Permissions::from_mode(0o777);
            fs::set_permissions(folder.path(name), all).expect("it is our folder");
        }
        for _ in 0..ATTEMPTS {
            if let Some(started) = Self::start_at(&folder, free_port()) {
                return started;
            }
        }
        panic!("Apache does not start: {}", log(&folder));
    }

    fn start_at(folder: &Folder, address: SocketAddr) -> Option<Self> {
        folder.write("httpd.conf", configuration(folder, address));
        let mut child = Command::new("apache2")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["-D", "FOREGROUND", "-f"])
            .arg(folder.path("httpd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("apache2 is installed");
        let mut ended = false;
        wait_until("Apache listens or ends", || {
            ended = matches!(child.try_wait(), Ok(Some(_)));
            ended || TcpStream::connect(address).is_ok()
        });
        (!ended).then(|| Self {
            child,
            address: Address::Tcp(address),
            folder: folder.clone(),
        })
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        // Not SIGKILL: the parent must end its children first.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("--- log of Apache ---\n{}\n---", log(&self.folder));
        }
    }
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener.local_addr().expect("the listener has an address")
}

fn log(folder: &Folder) -> String {
    fs::read_to_string(folder.path("error.log")).unwrap_or_default()
}

fn configuration(folder: &Folder, address: SocketAddr) -> String {
    let root = folder.root().display();
    let user = match rustix::process::geteuid().is_root() {
        true => format!("User {USER}\nGroup {USER}"),
        false => String::new(),
    };
    let modules: String = [
        "mpm_event",
        "authz_core",
        "mime",
        "dav",
        "dav_fs",
        "filter",
        "deflate",
        "alias",
    ]
    .iter()
    .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
    .collect();
    format!(
        r#"
{modules}
{user}
ServerRoot "{root}"
ServerName origin.example
Listen {address}
PidFile "{root}/apache.pid"
ErrorLog "{root}/error.log"
DefaultRuntimeDir "{root}"
DocumentRoot "{root}/www"
DavLockDB "{root}/www/upload/.locks"
TypesConfig /dev/null
AddType text/plain .txt
StartServers 1
KeepAlive On
KeepAliveTimeout 60
MaxKeepAliveRequests 3
Redirect 301 "/old" "http://origin.example/new"
<Directory "{root}/www">
    Require all granted
</Directory>
<Location "/upload/">
    Dav On
</Location>
<Location "/small-only/">
    Dav On
    LimitRequestBody 1024
</Location>
<Location "/packed/">
    SetOutputFilter DEFLATE
</Location>
"#
    )
}
