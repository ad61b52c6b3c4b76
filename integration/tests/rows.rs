//! Which test covers which row of the table of faults that the proxy must survive: a test says it in its doc comment
//! ("Fault 104", "Rows 118 and 119") or in its name (`fault_99_...`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const FAULTS: [(u16, &str); 53] = [
    (
        77,
        "framing: two lengths, length and coding, obscured codings and numbers",
    ),
    (78, "bodies that are not read, answers that overtake them"),
    (79, "games with Expect: 100-continue"),
    (80, "chunk sizes, extensions and line ends that are none"),
    (81, "trailers that frame, route or authorise; endless trailers"),
    (82, "heads that a lenient parser would take; other versions"),
    (83, "Host: none, several, with more than a host in it"),
    (84, "changes of protocol that are premature, unknown, or hide requests"),
    (85, "a thousand requests in a pipeline, faults in its middle"),
    (86, "heads and targets that are too large"),
    (87, "one path in many spellings"),
    (88, "names that other servers take for ours; Connection that names ours"),
    (89, "HTTP/2: rapid reset"),
    (90, "HTTP/2: resets that a client provokes"),
    (91, "HTTP/2: header blocks without an end"),
    (92, "HTTP/2: few bytes that stand for many"),
    (93, "HTTP/2: frames that carry nothing"),
    (94, "HTTP/2: windows that stay closed, or open byte by byte"),
    (95, "HTTP/2: what would be another request in HTTP/1"),
    (96, "HTTP/2: connections that live long, and end"),
    (97, "HTTP/2: upstreams that take leave or refuse in the middle"),
    (98, "gRPC: calls without an end, or with none that is whole"),
    (99, "tunnels: halves, silence, changes of generation"),
    (100, "heads that drip"),
    (101, "bodies that drip, readers that are slow, ranges"),
    (102, "idle and silent connections by the thousand"),
    (103, "a client that reads nothing, in front of an upstream that floods"),
    (104, "an upstream that reads nothing, behind a client that floods"),
    (105, "ports that run out"),
    (106, "upstreams that refuse, vanish or break off at any byte"),
    (107, "what comes behind an answer, or several answers, or none"),
    (108, "what comes on an idle connection"),
    (109, "answers that are too large, or packed"),
    (110, "names that change, vanish, lead in circles or to thousands"),
    (111, "all servers down, flapping, slow to start; checks that hang"),
    (112, "retries that make an outage worse"),
    (113, "TLS of upstreams that is not to be believed"),
    (114, "loops, and word of clients from whoever may not give it"),
    (115, "certificates that change, and those that are no good"),
    (
        116,
        "names of servers: none, unknown, oddly written, another than the request's",
    ),
    (117, "handshakes: floods, slow, in pieces, large, again and again"),
    (118, "tickets that would open another door"),
    (119, "chains of clients: deep, revoked, of another domain"),
    (120, "early data"),
    (121, "signals in the middle of everything"),
    (122, "new processes that fail, or are somebody else's"),
    (123, "descriptors that run out"),
    (124, "memory that runs out, or was never there"),
    (125, "disks that are full"),
    (126, "readers of logs that are stuck, and rotation"),
    (127, "clocks that jump"),
    (128, "threads that would become too many"),
    (129, "panics"),
];

/// The rows that a text speaks of: the numbers behind `fault`, `faults`, `row` or `rows`, joined by commas and `and`.
fn rows_of(text: &str) -> Vec<u16> {
    let mut rows = Vec::new();
    let text = text
        .to_ascii_lowercase()
        .replace(['_', ',', '.', ':', ';', '(', ')'], " ");
    let mut speaks = false;
    for word in text.split_whitespace() {
        match word.parse::<u16>() {
            Ok(row) if speaks => rows.push(row),
            _ => {
                speaks = matches!(word, "fault" | "faults" | "row" | "rows") || (speaks && matches!(word, "and" | "to"))
            }
        }
    }
    rows
}

/// Doc comments and names of functions in the text of a file of tests, with the lines that they stand in joined.
fn claims(text: &str) -> String {
    let lines = text.lines().filter_map(|line| {
        let line = line.trim_start();
        let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
        comment.or_else(|| line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn every_row_has_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut covered: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the tests' folder") {
        let path = entry.expect("an entry").path();
        let is_own = path.ends_with("rows.rs");
        let text = fs::read_to_string(&path).expect("a file of tests");
        for row in rows_of(&claims(&text)).into_iter().filter(|_| !is_own) {
            covered.entry(row).or_default().push(path.display().to_string());
        }
    }
    let without = FAULTS.iter().filter(|(row, _)| !covered.contains_key(row));
    assert_eq!(without.collect::<Vec<_>>(), Vec::<&(u16, &str)>::new(), "{covered:#?}");
}

#[test]
fn rows_are_read_as_they_are_written() {
    for (text, rows) in [
        ("Fault 104: an upstream", &[104][..]),
        ("Rows 102 and 117: those", &[102, 117]),
        ("Faults 14, 114 and 9: a", &[14, 114, 9]),
        ("fn fault_99_and_7_tunnels", &[99, 7]),
        ("a row of 100 and 7 more", &[]),
    ] {
        assert_eq!(rows_of(text), rows, "{text}");
    }
    assert_eq!(claims("    /// a\nfn b(c: d) {\nlet e;\n//! f"), " a\nb\n f");
}
