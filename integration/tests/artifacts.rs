//! What is compiled is what was read and hashed, and compiled code is believed only when this cache has written it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use tamis_integration::proxy::CONFIGURATION;
use tamis_integration::wat::Act::Reply;
use tamis_integration::wat::Guest;
use tamis_integration::{Folder, Proxy};

use crate::support::each;

/// A filter that answers everything with this text.
fn replying(body: &'static str) -> Vec<u8> {
    Guest::new().on_request([Reply(200, vec![], body)]).build()
}

const YAML: &str = "\
workers: 1
admin: { address: 127.0.0.1:0 }
wasm: { cache: cache }
listeners:
  web: { address: 127.0.0.1:0 }
filters:
  guest: { component: guest.wasm }
routes:
  - { filters: [guest], respond: { status: 404 } }
";

/// As somebody else computes it.
fn digest(folder: &Folder, bytes: &[u8]) -> String {
    let path = folder.write("hashed", bytes);
    let printed = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum is there")
        .stdout;
    String::from_utf8_lossy(&printed[..64]).into_owned()
}

/// Fault 60: while a component's file is replaced again and again, whatever generation is live says the digest of the
/// very bytes that it runs.
#[test]
fn what_is_compiled_is_what_was_hashed() {
    const REPLACEMENTS: usize = 200;
    let folder = Folder::new();
    let versions: Vec<(&str, Vec<u8>)> = ["one", "two", "three"].map(|text| (text, replying(text))).into();
    let hashed = versions.iter().map(|(text, bytes)| (digest(&folder, bytes), *text));
    let by_digest: BTreeMap<String, &str> = hashed.collect();
    folder.write("guest.wasm", &versions[0].1);
    // Without a cache each one is compiled, which takes longer than it takes to replace the file.
    let proxy = Proxy::start_in(&folder, &YAML.replace("wasm: { cache: cache }\n", ""));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (_, bytes) in versions.iter().cycle().take(REPLACEMENTS) {
                proxy.folder().replace("guest.wasm", bytes);
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while !is_over.load(Ordering::SeqCst) {
            proxy.admin("POST", "/reload");
            let before = live(&proxy);
            let served = proxy.get("/").text();
            // Another generation may have come in between; then the next look decides.
            if live(&proxy) == before {
                let (_, says) = before;
                let expected = by_digest.get(says.as_str().expect("a digest"));
                assert_eq!(expected, Some(&served.as_str()), "{says}");
            }
        }
    });
    proxy.admin("POST", "/reload");
    let (_, says) = live(&proxy);
    let last = &versions[(REPLACEMENTS - 1) % versions.len()];
    assert_eq!(
        (says, proxy.get("/").text()),
        (digest(&folder, &last.1).into(), last.0.to_owned())
    );
}

/// The generation, and what its filter is said to be.
fn live(proxy: &Proxy) -> (Value, Value) {
    let shown: Value = serde_json::from_slice(&proxy.admin("GET", "/config").body).expect("JSON");
    (
        shown["generation"].clone(),
        shown["components"]["guest"]["sha256"].clone(),
    )
}

/// How an entry of the cache comes to be another one.
type Tampering = fn(&PathBuf, &PathBuf);

fn made_by(program: &str, arguments: &[&str], path: &PathBuf) {
    fs::remove_file(path).expect("it is there");
    let made = Command::new(program).args(arguments).arg(path).status();
    assert!(made.expect("it is there").success());
}

/// Fault 63: whatever lies in the cache in the place of what was written there, it is compiled anew, said, and replaced;
/// foreign code never runs.
#[test]
fn tampered_and_foreign_code_is_compiled_anew() {
    let other = Folder::new();
    other.write("guest.wasm", replying("one"));
    let foreign = entry(&other, "another cache");
    let cases: [(&str, Tampering); 7] = [
        ("a byte of the code", |entry, _| {
            let mut bytes = fs::read(entry).expect("it is there");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(entry, bytes).expect("bent");
        }),
        ("cut", |entry, _| {
            let bytes = fs::read(entry).expect("it is there");
            fs::write(entry, &bytes[..bytes.len() / 2]).expect("cut");
        }),
        ("empty", |entry, _| fs::write(entry, "").expect("emptied")),
        (
            "sound code of the same component, from a cache with another key",
            |entry, foreign| {
                fs::copy(foreign, entry).expect("copied");
            },
        ),
        ("code without its authentication", |entry, foreign| {
            let bytes = fs::read(foreign).expect("it is there");
            fs::write(entry, &bytes[32..]).expect("cut in front");
        }),
        ("a FIFO, which nobody writes to", |entry, _| {
            made_by("mkfifo", &[], entry)
        }),
        ("more than any code", |entry, _| {
            made_by("truncate", &["-s", "1T"], entry)
        }),
    ];
    each(
        cases,
        |(name, _)| (*name).to_owned(),
        |(name, tamper)| {
            let folder = Folder::new();
            folder.write("guest.wasm", replying("one"));
            let entry = entry(&folder, name);
            tamper(&entry, &foreign);
            let proxy = Proxy::launch(&folder, &[]);
            assert_eq!(proxy.get("/").text(), "one", "{name}");
            assert_eq!(made(&proxy), (1.0, 0.0), "{name}");
            let said = proxy.log().wait_from(0, "an entry of wasm.cache", |line| {
                line.message().starts_with("an entry of wasm.cache")
            });
            assert_eq!(said.level(), "WARN", "{name}");
            drop(proxy);
            let proxy = Proxy::launch(&folder, &[]);
            assert_eq!(made(&proxy), (0.0, 1.0), "{name}: it was replaced by a sound one");
        },
    );
}

/// Fault 63: sound code of one component under the name of another, in the same cache.
#[test]
fn code_of_another_component_does_not_run() {
    let folder = Folder::new();
    folder.write("guest.wasm", replying("one"));
    let one = entry(&folder, "one");
    folder.replace("guest.wasm", replying("two"));
    let proxy = Proxy::launch(&folder, &[]);
    assert_eq!(proxy.get("/").text(), "two");
    drop(proxy);
    let two = entries(&folder)
        .into_iter()
        .find(|path| *path != one)
        .expect("another entry");
    fs::copy(&two, &one).expect("copied");
    folder.replace("guest.wasm", replying("one"));
    let proxy = Proxy::launch(&folder, &[]);
    assert_eq!((proxy.get("/").text().as_str(), made(&proxy)), ("one", (1.0, 0.0)));
}

/// The cache's only entry, after a start on what is in the folder.
fn entry(folder: &Folder, name: &str) -> PathBuf {
    folder.write(CONFIGURATION, YAML);
    let proxy = Proxy::launch(folder, &[]);
    assert_eq!(made(&proxy), (1.0, 0.0), "{name}: compiled and written");
    let entries = entries(folder);
    assert_eq!(entries.len(), 1, "{name}");
    entries[0].clone()
}

fn entries(folder: &Folder) -> Vec<PathBuf> {
    let all = fs::read_dir(folder.path("cache")).expect("there is a cache").flatten();
    let code = all
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "cwasm"));
    code.collect()
}

/// Components that were compiled, and those that came from the cache.
fn made(proxy: &Proxy) -> (f64, f64) {
    let metrics = proxy.metrics();
    let from = |from| metrics.sum("tamis_components_total", &[("from", from)]);
    (from("compiled"), from("cached"))
}
