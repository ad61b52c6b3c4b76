//! What a configuration takes from its surroundings: variables, secrets, components, and the file itself.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tamis_config::{
    Action, Address, Config, Endpoints, Environment, Errors, FilterKind, LogTarget, ServiceGrant, Target,
};

#[derive(Default)]
struct Fake {
    variables: HashMap<&'static str, String>,
    files: HashMap<&'static str, Vec<u8>>,
}

impl Environment for Fake {
    fn variable(&self, name: &str) -> Result<Option<String>, String> {
        Ok(self.variables.get(name).cloned())
    }

    fn read(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let content = self.files.get(path.to_str().unwrap()).ok_or(io::ErrorKind::NotFound)?;
        if content.len() as u64 > max_bytes {
            Err(io::ErrorKind::FileTooLarge.into())
        } else {
            Ok(content.clone())
        }
    }
}

fn fake(variables: &[(&'static str, &str)], files: &[(&'static str, &str)]) -> Fake {
    Fake {
        variables: variables
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        files: files
            .iter()
            .map(|(path, content)| (*path, content.as_bytes().to_vec()))
            .collect(),
    }
}

fn parse(text: &str, environment: &Fake) -> Result<Config, Errors> {
    tamis_config::parse(text, Path::new("/etc/tamis/tamis.yaml"), environment)
}

const SECRETS: &str = "\
workers: ${WORKERS}
drain_timeout: ${DRAIN}s
access_log: { file: logs/access.log }
listeners: { web: { address: '127.0.0.1:${PORT}' } }
filters:
  auth:
    component: filters/${NAME}.wasm
    config:
      token: file:secrets/token
      password: pre-${PASSWORD}
      plain: $${PASSWORD} costs $5
      list: ['file:/run/${NAME}', public, 1, true, ~]
clusters: { app: { endpoints: ['${UPSTREAM:-127.0.0.1:9000}', 'unix:app.sock'] } }
routes:
  - name: ${NAME}
    filters: [{ filter: auth, config: { token: file:secrets/token } }]
    cluster: app
";

fn secrets() -> Fake {
    fake(
        &[
            ("WORKERS", "3"),
            ("DRAIN", "5"),
            ("PORT", "8081"),
            ("NAME", "auth"),
            ("PASSWORD", "hunter2"),
        ],
        &[("/etc/tamis/secrets/token", "s3cret\n"), ("/run/auth", "t0ken\r\n")],
    )
}

#[test]
fn variables_and_files_are_filled_in() {
    let config = parse(SECRETS, &secrets()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.workers, Some(3));
    assert_eq!(config.drain_timeout.as_secs(), 5);
    assert_eq!(
        config.access_log.target,
        LogTarget::File("/etc/tamis/logs/access.log".into())
    );
    assert_eq!(config.listeners[0].address, Address::Tcp(([127, 0, 0, 1], 8081).into()));
    assert_eq!(
        config.filters[0].kind,
        FilterKind::Component("/etc/tamis/filters/auth.wasm".into())
    );
    assert_eq!(
        config.filters[0].config.value,
        serde_json::json!({
            "token": "s3cret",
            "password": "pre-hunter2",
            "plain": "${PASSWORD} costs $5",
            "list": ["t0ken", "public", 1, true, null],
        })
    );
    let Endpoints::Listed(listed) = &config.clusters[0].endpoints else {
        panic!("{:?}", config.clusters[0])
    };
    assert_eq!(
        listed[1].target,
        Target::Address(Address::Unix("/etc/tamis/app.sock".into()))
    );
    assert_eq!(config.routes[0].name, "auth");
}

#[test]
fn every_file_is_listed_once() {
    let config = parse(SECRETS, &secrets()).unwrap();
    let expected = ["/etc/tamis/filters/auth.wasm", "/etc/tamis/secrets/token", "/run/auth"].map(PathBuf::from);
    assert_eq!(config.files, expected);
}

#[test]
fn nothing_shows_a_secret() {
    let config = parse(SECRETS, &secrets()).unwrap();
    for shown in [
        config.describe().to_string(),
        format!("{config:?}"),
        format!("{config:#?}"),
    ] {
        for secret in ["s3cret", "t0ken", "hunter2"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }
    let described = config.describe();
    assert_eq!(
        described["filters"]["auth"]["config"],
        serde_json::json!({
            "token": "[redacted]",
            "password": "[redacted]",
            "plain": "${PASSWORD} costs $5",
            "list": ["[redacted]", "public", 1, true, null],
        })
    );
    assert_eq!(described["routes"][0]["filters"][0]["config"]["token"], "[redacted]");
    assert_eq!(described["drain_timeout"], "5s");
}

/// `tamis check --against` compares what two processes describe, and they may name the same file in two ways.
#[test]
fn a_description_does_not_depend_on_how_the_file_is_named() {
    let text = "\
access_log: { file: logs/access.log }
wasm: { cache: cache }
listeners:
  web:
    address: 127.0.0.1:0
    tls: { certificates: [{ cert: site.pem, key: site.key }], client_ca: ca.pem, client_crl: crl.pem }
filters: { a: { component: a.wasm, candidate: { component: b.wasm } } }
clusters:
  app:
    endpoints: [127.0.0.1:9000]
    tls: { ca: ca.pem, client_certificate: { cert: us.pem, key: us.key } }
routes: [{ respond: { status: 200 } }]
";
    let absolute = std::path::absolute("folder/tamis.yaml").unwrap();
    let described = [Path::new("folder/tamis.yaml"), &absolute].map(|file| {
        let parsed = tamis_config::parse(text, file, &tamis_config::System);
        parsed.unwrap_or_else(|errors| panic!("{errors}")).describe()
    });
    assert_eq!(described[0], described[1]);
    let candidate = &described[0]["filters"]["a"]["candidate"]["component"];
    assert_eq!(*candidate, absolute.with_file_name("b.wasm").display().to_string());
}

#[test]
fn a_variable_cannot_change_the_structure_or_read_a_file() {
    let text = "\
listeners: { web: { address: 127.0.0.1:0 } }
filters: { f: { native: f, config: { a: '${A}', b: '${B}' } } }
clusters: { app: { endpoints: [127.0.0.1:9000] } }
routes: [{ cluster: app }]
";
    let environment = fake(
        &[("A", "x, c: d }"), ("B", "file:/etc/shadow")],
        &[("/etc/shadow", "root")],
    );
    let config = parse(text, &environment).unwrap();
    assert_eq!(
        config.filters[0].config.value,
        serde_json::json!({ "a": "x, c: d }", "b": "file:/etc/shadow" })
    );
    assert!(config.files.is_empty());
}

#[test]
fn large_values_are_bounded_in_sum() {
    let uses: String = (0..1_000).map(|index| format!("      k{index}: ${{BIG}}\n")).collect();
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nroutes: [{{ respond: {{ status: 200 }} }}]\n\
         filters:\n  f:\n    native: f\n    config:\n{uses}"
    );
    let big = "x".repeat(128 << 10);
    let errors = parse(&text, &fake(&[("BIG", &big)], &[])).unwrap_err();
    assert!(errors.to_string().contains("more than 67108864 bytes"), "{errors:.300}");
}

#[test]
fn a_moved_item_is_the_same_item() {
    let text = "listeners: { web: { address: 127.0.0.1:0 } }\nroutes: [{ respond: { status: 200 } }]\n";
    let moved = format!("# a comment\n{text}");
    let (before, after) = (
        parse(text, &Fake::default()).unwrap(),
        parse(&moved, &Fake::default()).unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!((before.routes[0].place.line(), after.routes[0].place.line()), (2, 3));
    assert!(matches!(before.routes[0].action, Action::Respond(_)));
}

#[test]
fn anchors_and_merge_keys_work_and_errors_show_the_definition() {
    let text = "\
listeners: { web: { address: 127.0.0.1:0 } }
clusters:
  a: &base { endpoints: [127.0.0.1:1], read_timeout: 5s }
  b: { <<: *base, endpoints: [127.0.0.1:2] }
routes: [{ cluster: a }]
";
    let config = parse(text, &Fake::default()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.clusters[1].read_timeout.as_secs(), 5);
    let errors = parse(&text.replace("5s", "5"), &Fake::default())
        .unwrap_err()
        .to_string();
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(
        errors.lines().all(|line| line.contains("tamis.yaml:3:54: cluster `")),
        "{errors}"
    );
}

#[cfg(unix)]
#[test]
fn only_a_regular_file_of_bounded_size_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("sound.yaml"), include_str!("../examples/quickstart.yaml")).unwrap();
    fs::write(path("latin1.yaml"), b"# caf\xe9\n").unwrap();
    fs::File::create(path("huge.yaml")).unwrap().set_len(1 << 40).unwrap();
    std::os::unix::fs::symlink("sound.yaml", path("link.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", path("loop.yaml")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(path("fifo.yaml"))
        .status()
        .unwrap();
    assert!(fifo.success());

    assert!(tamis_config::load(&path("sound.yaml")).is_ok());
    assert!(tamis_config::load(&path("link.yaml")).is_ok());
    for (file, part) in [
        (path("fifo.yaml"), "is not a regular file"),
        (PathBuf::from("/dev/zero"), "is not a regular file"),
        (folder.path().to_owned(), "is a directory"),
        (path("huge.yaml"), "is larger than 16777216 bytes"),
        (path("latin1.yaml"), "not UTF-8 from byte 5 on"),
        (path("none.yaml"), "cannot be read: "),
        (path("loop.yaml"), "cannot be read: "),
    ] {
        let message = tamis_config::load(&file).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("{}: ", file.display())) && message.contains(part),
            "{message}"
        );
    }
}

#[test]
fn a_secret_is_a_small_text_file() {
    let text = |path: &str| {
        format!(
            "listeners: {{ web: {{ address: 127.0.0.1:0 }} }}\nroutes: [{{ respond: {{ status: 200 }} }}]\n\
             filters: {{ f: {{ native: f, config: {{ a: 'file:{path}' }} }} }}\n"
        )
    };
    let mut environment = fake(
        &[],
        &[
            ("/etc/tamis/large", &"x".repeat((64 << 10) + 1)),
            ("/etc/tamis/empty", ""),
        ],
    );
    environment.files.insert("/etc/tamis/binary", vec![0xff, 0xfe]);
    assert!(parse(&text("empty"), &environment).is_ok());
    for path in ["large", "binary", "none"] {
        let message = parse(&text(path), &environment).unwrap_err().to_string();
        assert!(message.starts_with("/etc/tamis/tamis.yaml:3:"), "{message}");
        assert!(message.contains("filter `f`: config.a: file "), "{message}");
    }
}

#[test]
fn what_a_component_is_given_may_be_secret() {
    let text = "\
listeners: { web: { address: '127.0.0.1:80' } }
clusters:
  app:
    component: app.wasm
    grants: [{ env: { A: file:secrets/token } }, { config: { b: 'pre-${PASSWORD}', c: plain, d: 'x file:y' } }]
routes: [{ cluster: app }]
";
    let config = parse(text, &secrets()).unwrap();
    let Endpoints::Component(service) = &config.clusters[0].endpoints else {
        panic!("it has a component")
    };
    let pairs = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        owned.collect::<Vec<_>>()
    };
    let given = [("b", "pre-hunter2"), ("c", "plain"), ("d", "x file:y")];
    assert_eq!(
        service.grants,
        [
            ServiceGrant::Env(pairs(&[("A", "s3cret")])),
            ServiceGrant::Config(pairs(&given))
        ]
    );
    assert!(config.files.contains(&PathBuf::from("/etc/tamis/secrets/token")));
    let shown = config.describe().to_string();
    for secret in ["s3cret", "hunter2", "plain"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
