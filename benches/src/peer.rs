//! A proxy that takes part: its configuration, its command line, its port.
//!
//! All peers do the same work in the same way: one thread, one listener on the loopback address, one origin, upstream
//! connections kept alive, no access log. What each is told stands in `peers/`, as a template with `@KEY@` to fill in.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::contestant::{Chain, Contestant, Extra, Host, Service};
use crate::probe::Touch;
use crate::program::Program;
use crate::work::Work;

const ORIGIN_CONF: &str = include_str!("../peers/origin.conf");
const NGINX_CONF: &str = include_str!("../peers/nginx.conf");
const HAPROXY_CFG: &str = include_str!("../peers/haproxy.cfg");
const ENVOY_YAML: &str = include_str!("../peers/envoy.yaml");
const ENVOY_TLS: &str = include_str!("../peers/envoy-tls.yaml");
const ENVOY_WASM_FILTER: &str = include_str!("../peers/envoy-wasm-filter.yaml");
const HEADER_TOUCH_WAT: &str = include_str!("../peers/header-touch.wat");
const TAMIS_YAML: &str = include_str!("../peers/tamis.yaml");
const TAMIS_SERVICE_YAML: &str = include_str!("../peers/tamis-service.yaml");
const TAMIS_WASM_FILTER: &str = include_str!("../peers/tamis-wasm-filter.yaml");
const TAMIS_NATIVE_FILTER: &str = include_str!("../peers/tamis-native-filter.yaml");

const NGINX_CERTIFICATE: &str =
    "        ssl_certificate @FOLDER@/cert.pem; ssl_certificate_key @FOLDER@/key.pem; ssl_protocols TLSv1.3;";
const HAPROXY_SSL: &str = " ssl crt @FOLDER@/both.pem alpn h2,http/1.1 ssl-min-ver TLSv1.3";
const TAMIS_TLS: &str = "    tls: { certificates: [{ cert: @FOLDER@/cert.pem, key: @FOLDER@/key.pem }] }";

/// Connections that every proxy is told to expect, if the load has no more.
const CONNECTIONS: u32 = 8_192;
/// Above those of a load that has more: HAProxy reserves two descriptors for each, so this stays small.
const SPARE_CONNECTIONS: u32 = 64;

/// What the origin serves under `/files/`: name and bytes.
const FILES: [(&str, usize); 3] = [("1k", 1 << 10), ("64k", 64 << 10), ("1m", 1 << 20)];

/// What configurations refer to.
pub struct Surroundings<'a> {
    /// The private folder for configurations, logs and files.
    pub folder: &'a Path,
    pub work: Work,
    /// Of clients.
    pub connections: u32,
    pub origin_port: u16,
    pub tamis: &'a Path,
    /// Where `touch.wasm` is.
    pub components: &'a Path,
}

/// Ready to be started: configuration written, programs found.
pub struct Peer {
    pub name: String,
    pub port: u16,
    pub command: Vec<OsString>,
    pub touch: Touch,
    /// `None` for an extra, of which nothing is known.
    pub program: Option<Program>,
}

/// The origin is nginx, with the files that it serves.
pub fn origin(surroundings: &Surroundings<'_>) -> Result<Peer> {
    let files = surroundings.folder.join("files");
    fs::create_dir(&files).with_context(|| format!("cannot create {}", files.display()))?;
    for (name, bytes) in FILES {
        fs::write(files.join(name), vec![b'.'; bytes]).with_context(|| format!("cannot write file {name}"))?;
    }
    let port = surroundings.origin_port;
    surroundings.nginx("origin", port, ORIGIN_CONF)
}

/// Ports nobody listens on, all different. They are free again on return, so their use should follow soon.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_, _>>().context("no free port")?;
    listeners
        .iter()
        .map(|listener| Ok(listener.local_addr().context("no free port")?.port()))
        .collect()
}

impl Surroundings<'_> {
    /// A certificate and its key, for work over TLS: apart, and in one file as HAProxy wants them.
    pub fn write_certificate(&self) -> Result<()> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
            .context("cannot make a certificate")?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        self.write("both.pem", &format!("{certificate}{key}"))?;
        self.write("cert.pem", &certificate)?;
        self.write("key.pem", &key)?;
        Ok(())
    }

    fn expected_connections(&self) -> u32 {
        CONNECTIONS.max(self.connections + SPARE_CONNECTIONS)
    }

    /// The text if clients speak TLS.
    fn if_secure(&self, text: &'static str) -> &'static str {
        match self.work.is_secure() {
            true => text.trim_end_matches('\n'),
            false => "",
        }
    }

    /// Finds the program and writes the configuration. An extra with a port of its own keeps it.
    pub fn prepare(&self, name: &str, contestant: &Contestant, port: u16) -> Result<Peer> {
        match contestant {
            Contestant::Nginx => self.nginx(name, port, NGINX_CONF),
            Contestant::Haproxy => self.haproxy(name, port),
            Contestant::Envoy(chain) => self.envoy(name, port, *chain),
            Contestant::Tamis(chain) => self.tamis(name, port, *chain),
            Contestant::Service(service) => self.service(name, port, *service),
            Contestant::Extra(extra) => Ok(self.extra(extra, port)),
        }
    }

    fn nginx(&self, name: &str, port: u16, template: &str) -> Result<Peer> {
        // Long before they are all in use it closes those that rest.
        let connections = (2 * self.expected_connections()).to_string();
        let more = [
            ("SSL", self.if_secure(" ssl http2")),
            ("CERTIFICATE", self.if_secure(NGINX_CERTIFICATE)),
            ("CONNECTIONS", &*connections),
        ];
        let configuration = self.write(&format!("{name}.conf"), &self.fill(template, port, &more)?)?;
        let program = Program::nginx()?;
        // Without -e and -p it would try its compiled-in log and prefix first, which need root.
        let options = [
            "-e".into(),
            "stderr".into(),
            "-p".into(),
            self.folder.into(),
            "-c".into(),
            configuration.into(),
        ];
        Ok(Peer::new(name, port, program, &options, Touch::None))
    }

    fn haproxy(&self, name: &str, port: u16) -> Result<Peer> {
        let tls = [("SSL", self.if_secure(HAPROXY_SSL))];
        let configuration = self.write(&format!("{name}.cfg"), &self.fill(HAPROXY_CFG, port, &tls)?)?;
        Ok(Peer::new(
            name,
            port,
            Program::haproxy()?,
            &["-db".into(), "-f".into(), configuration.into()],
            Touch::None,
        ))
    }

    fn envoy(&self, name: &str, port: u16, chain: Chain) -> Result<Peer> {
        let fragment = match chain {
            Chain::Empty => "",
            Chain::Wasm(_) => {
                let code = wat::parse_str(HEADER_TOUCH_WAT).context("peers/header-touch.wat")?;
                fs::write(self.folder.join("header-touch.wasm"), code).context("cannot write header-touch.wasm")?;
                ENVOY_WASM_FILTER
            }
            Chain::Native(_) | Chain::Body(_) => bail!("{name}: Envoy takes no filters of ours"),
        };
        let filters = chain
            .names()
            .map(|filter| self.fill(fragment, port, &[("NAME", &filter)]));
        let filters = filters.collect::<Result<String>>()?;
        let more = [("FILTERS", filters.trim_end()), ("TLS", self.if_secure(ENVOY_TLS))];
        let text = self.fill(ENVOY_YAML, port, &more)?;
        let configuration = self.write(&format!("{name}.yaml"), &text)?;
        let mut options: Vec<OsString> = vec!["-c".into(), configuration.into()];
        // Hot restart would share memory between two runs on one machine.
        options.extend(["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"].map(OsString::from));
        Ok(Peer::new(name, port, Program::envoy()?, &options, Touch::of(chain)))
    }

    fn tamis(&self, name: &str, port: u16, chain: Chain) -> Result<Peer> {
        let program = Program::tamis(self.tamis)?;
        let components = match chain {
            Chain::Wasm(_) | Chain::Body(_) => self.components("touch")?,
            Chain::Empty | Chain::Native(_) => String::new(),
        };
        let (fragment, component) = match chain {
            Chain::Empty => ("", ""),
            Chain::Wasm(_) => (TAMIS_WASM_FILTER, "touch"),
            Chain::Native(_) => (TAMIS_NATIVE_FILTER, ""),
            Chain::Body(_) => (TAMIS_WASM_FILTER, "pass"),
        };
        let filters = chain.names().map(|filter| {
            let more = [
                ("NAME", &*filter),
                ("COMPONENTS", &components),
                ("COMPONENT", component),
            ];
            let filled = self.fill(fragment, port, &more)?;
            Ok(filled.trim_end().to_owned())
        });
        let filters = filters.collect::<Result<Vec<_>>>()?.join(", ");
        let chain_names = chain.names().collect::<Vec<_>>().join(", ");
        let more = [
            ("FILTERS", &*filters),
            ("CHAIN", &*chain_names),
            ("TLS", self.if_secure(TAMIS_TLS)),
        ];
        let text = self.fill(TAMIS_YAML, port, &more)?;
        let configuration = self.write(&format!("{name}.yaml"), &text)?;
        Ok(Peer::new(
            name,
            port,
            program,
            &["run".into(), "-c".into(), configuration.into()],
            Touch::of(chain),
        ))
    }

    fn service(&self, name: &str, port: u16, service: Service) -> Result<Peer> {
        if self.work.is_secure() {
            bail!("{name}: the hosts of components are compared in clear text");
        }
        let component = service.wasi.component();
        let components = self.components(component)?;
        match service.host {
            Host::Tamis(instances) => {
                let more = [
                    ("COMPONENTS", &*components),
                    ("COMPONENT", component),
                    ("INSTANCES", instances),
                ];
                let text = self.fill(TAMIS_SERVICE_YAML, port, &more)?;
                let configuration = self.write(&format!("{name}.yaml"), &text)?;
                let options = ["run".into(), "-c".into(), configuration.into()];
                Ok(Peer::new(
                    name,
                    port,
                    Program::tamis(self.tamis)?,
                    &options,
                    Touch::Service,
                ))
            }
            Host::Wasmtime => {
                let address = format!("127.0.0.1:{port}");
                let file = format!("{components}/{component}.wasm");
                let options = ["serve", "--addr", &address, "-Scli", &file].map(OsString::from);
                Ok(Peer::new(name, port, Program::wasmtime()?, &options, Touch::Service))
            }
        }
    }

    fn extra(&self, extra: &Extra, free_port: u16) -> Peer {
        let port = if extra.port == 0 { free_port } else { extra.port };
        let fill = |word: &str| {
            let filled = word.replace("{port}", &port.to_string());
            OsString::from(filled.replace("{origin_port}", &self.origin_port.to_string()))
        };
        let command = extra.command.split_ascii_whitespace().map(fill).collect();
        Peer {
            name: extra.name.clone(),
            port,
            command,
            touch: Touch::Unknown,
            program: None,
        }
    }

    /// Absolute, because a configuration's relative paths start at its own folder.
    fn components(&self, wanted: &str) -> Result<String> {
        let folder = self.components.display();
        let missing = || {
            format!(
                "there is no {wanted}.wasm in {folder}; build the components in filters/, or name their folder with \
                 --components"
            )
        };
        let file = fs::canonicalize(self.components.join(format!("{wanted}.wasm"))).with_context(missing)?;
        let folder = file.parent().and_then(Path::to_str);
        folder
            .map(str::to_owned)
            .with_context(|| format!("{} is not UTF-8", file.display()))
    }

    fn fill(&self, template: &str, port: u16, more: &[(&str, &str)]) -> Result<String> {
        let folder = self
            .folder
            .to_str()
            .with_context(|| format!("{} is not UTF-8", self.folder.display()))?;
        let (port, origin_port) = (port.to_string(), self.origin_port.to_string());
        let connections = self.expected_connections().to_string();
        let common = [
            ("FOLDER", folder),
            ("PORT", &port),
            ("ORIGIN_PORT", &origin_port),
            ("CONNECTIONS", &connections),
        ];
        let pairs = more.iter().chain(&common);
        Ok(pairs.fold(template.to_owned(), |text, (key, value)| {
            text.replace(&format!("@{key}@"), value)
        }))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Touch {
    fn of(chain: Chain) -> Self {
        match chain {
            Chain::Empty | Chain::Body(_) => Self::None,
            Chain::Wasm(_) | Chain::Native(_) => Self::Header,
        }
    }
}

impl Peer {
    fn new(name: &str, port: u16, program: Program, options: &[OsString], touch: Touch) -> Self {
        let command = [program.path.clone().into_os_string()]
            .iter()
            .chain(options)
            .cloned()
            .collect();
        Self {
            name: name.to_owned(),
            port,
            command,
            touch,
            program: Some(program),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(folder: &Path) -> Surroundings<'_> {
        Surroundings {
            folder,
            work: Work::Http1,
            connections: 64,
            origin_port: 9000,
            tamis: folder,
            components: folder,
        }
    }

    #[test]
    fn an_extra_gets_its_ports_filled_in() {
        let surroundings = surroundings(Path::new("/"));
        let extra: Extra = "other=0=prog --port={port} --to 127.0.0.1:{origin_port}"
            .parse()
            .unwrap();
        let peer = surroundings.extra(&extra, 4001);
        assert_eq!((peer.port, peer.touch), (4001, Touch::Unknown));
        assert_eq!(peer.command, ["prog", "--port=4001", "--to", "127.0.0.1:9000"]);
        assert_eq!(surroundings.extra(&"other=8100=prog".parse().unwrap(), 4001).port, 8100);
    }

    #[test]
    fn no_template_keeps_a_placeholder() {
        let folder = tempfile::tempdir().unwrap();
        let (surroundings, more) = (
            surroundings(folder.path()),
            [
                ("NAME", "t1"),
                ("FILTERS", ""),
                ("CHAIN", ""),
                ("COMPONENTS", "c"),
                ("COMPONENT", "touch"),
                ("SSL", ""),
                ("CERTIFICATE", ""),
                ("TLS", ""),
                ("INSTANCES", ""),
            ],
        );
        let templates = [
            ORIGIN_CONF,
            NGINX_CONF,
            HAPROXY_CFG,
            ENVOY_YAML,
            ENVOY_TLS,
            ENVOY_WASM_FILTER,
            TAMIS_YAML,
            TAMIS_SERVICE_YAML,
            TAMIS_WASM_FILTER,
            TAMIS_NATIVE_FILTER,
        ];
        for template in templates {
            let text = surroundings
                .fill(template, 8080, &more)
                .unwrap()
                .replace("\"@type\"", "");
            assert!(!text.contains('@'), "{text}");
        }
    }

    #[test]
    fn a_tamis_chain_names_one_component_three_times() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("touch.wasm"), "").unwrap();
        fs::write(folder.path().join("tamis"), "").unwrap();
        let binary = folder.path().join("tamis");
        let surroundings = Surroundings {
            tamis: &binary,
            ..surroundings(folder.path())
        };
        let peer = surroundings.tamis("tamis-wasm3", 8080, Chain::Wasm(3)).unwrap();
        let text = fs::read_to_string(folder.path().join("tamis-wasm3.yaml")).unwrap();
        assert_eq!(text.matches("/touch.wasm").count(), 3);
        assert!(text.contains("filters: [t1, t2, t3]"), "{text}");
        assert!(
            text.contains("address: 127.0.0.1:8080") && text.contains("[127.0.0.1:9000]"),
            "{text}"
        );
        assert_eq!(peer.touch, Touch::Header);
    }

    #[test]
    fn a_missing_component_names_the_option() {
        let folder = tempfile::tempdir().unwrap();
        let message = format!("{:#}", surroundings(folder.path()).components("touch").unwrap_err());
        assert!(message.contains("--components"), "{message}");
    }

    #[test]
    fn the_filter_for_envoy_assembles() {
        assert!(wat::parse_str(HEADER_TOUCH_WAT).unwrap().starts_with(b"\0asm"));
    }

    #[test]
    fn free_ports_differ() {
        let mut ports = free_ports(8).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn over_tls_each_peer_is_told_of_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tamis"), "").unwrap();
        let binary = folder.path().join("tamis");
        let surroundings = Surroundings {
            tamis: &binary,
            work: Work::Http2,
            connections: 10_000,
            ..surroundings(folder.path())
        };
        surroundings.write_certificate().unwrap();
        surroundings.tamis("tamis", 8080, Chain::Empty).unwrap();
        let text = fs::read_to_string(folder.path().join("tamis.yaml")).unwrap();
        let certificate = folder.path().join("cert.pem");
        assert!(
            certificate.is_file() && text.contains(certificate.to_str().unwrap()),
            "{text}"
        );
        assert!(text.contains("max_connections: 10064"), "{text}");
    }
}
