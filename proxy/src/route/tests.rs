//! The table against the plain meaning of its patterns: cases for each rule of matching, and random tables and requests
//! that collide often, where the index must answer what trying each pattern in order does.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::select;

use super::index::Index;
use super::search::{Probe, Search};
use super::*;
use crate::peer::SubjectName;

type Lines = &'static [(&'static str, &'static str)];

/// An owned [`Target`].
#[derive(Clone, Debug)]
struct Request {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
}

impl Request {
    fn new(host: &str, path: &str, query: Option<&str>, method: &str, headers: &[(&str, &str)]) -> Request {
        let header = |&(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
            (
                name.parse().unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(header) {
            map.append(name, value);
        }
        let (host, path, query) = (host.to_owned(), path.to_owned(), query.map(str::to_owned));
        Request {
            host,
            path,
            query,
            method: method.parse().unwrap(),
            headers: map,
        }
    }

    fn target(&self) -> Target<'_> {
        let Request {
            host,
            path,
            query,
            method,
            headers,
        } = self;
        Target {
            host,
            path,
            query: query.as_deref(),
            method,
            headers,
            certificate: None,
        }
    }
}

/// Through the index, however small the table is.
fn find_by_index(table: &Table, target: &Target<'_>) -> Option<usize> {
    let probe = Probe::new(target);
    let mut search = Search::new(&table.rules, &probe);
    Index::build(&table.rules).search(&mut search);
    search.best()
}

fn find_in_order(table: &Table, target: &Target<'_>) -> Option<usize> {
    table.rules.iter().position(|rule| rule.matches(&Probe::new(target)))
}

/// Whether a table of this one pattern finds the request, both ways.
fn takes(pattern: &Pattern, request: &Request) -> bool {
    let table = Table::build(vec![pattern.clone()]).unwrap();
    let found = table.find(&request.target());
    assert_eq!(
        found,
        find_by_index(&table, &request.target()),
        "{pattern:?} {request:?}"
    );
    found.is_some()
}

fn exact_host(name: &str) -> HostPattern {
    HostPattern::Exact(name.to_owned())
}

fn suffix(name: &str) -> HostPattern {
    HostPattern::Suffix(name.to_owned())
}

fn exact_path(path: &str) -> PathPattern {
    PathPattern::Exact(path.to_owned())
}

fn prefix(path: &str) -> PathPattern {
    PathPattern::Prefix(path.to_owned())
}

fn regex(source: &str) -> PathPattern {
    PathPattern::Regex(source.to_owned())
}

fn of_hosts(hosts: &[HostPattern]) -> Pattern {
    Pattern {
        hosts: hosts.to_vec(),
        ..Pattern::default()
    }
}

fn of_path(path: PathPattern) -> Pattern {
    Pattern {
        path: Some(path),
        ..Pattern::default()
    }
}

fn of_methods(methods: &[&str]) -> Pattern {
    Pattern {
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        ..Pattern::default()
    }
}

fn of_header(name: &str, value: ValuePattern) -> Pattern {
    Pattern {
        headers: vec![HeaderPattern {
            name: name.to_owned(),
            value,
        }],
        ..Pattern::default()
    }
}

fn of_query(name: &str, value: ValuePattern) -> Pattern {
    Pattern {
        query: vec![QueryPattern {
            name: name.to_owned(),
            value,
        }],
        ..Pattern::default()
    }
}

fn value(text: &str) -> ValuePattern {
    ValuePattern::Exact(text.to_owned())
}

fn value_regex(source: &str) -> ValuePattern {
    ValuePattern::Regex(source.to_owned())
}

#[test]
fn hosts() {
    let both = [exact_host("a.example"), suffix("b.example")];
    let cases: &[(&[HostPattern], &str, bool)] = &[
        (&[], "anything.at.all", true),
        (&[], "", true),
        (&[exact_host("example.org")], "example.org", true),
        (&[exact_host("example.org")], "www.example.org", false),
        (&[exact_host("example.org")], "xexample.org", false),
        (&[exact_host("example.org")], "", false),
        (&[suffix("example.org")], "www.example.org", true),
        (&[suffix("example.org")], "a.b.example.org", true),
        (&[suffix("example.org")], "example.org", false),
        (&[suffix("example.org")], "xexample.org", false),
        (&[suffix("example.org")], ".example.org", false),
        (&[suffix("example.org")], "..example.org", true),
        (&[suffix("example.org")], "www.example.org.evil", false),
        (&[suffix("org")], "example.org", true),
        (&[suffix("org")], "org", false),
        (&both, "a.example", true),
        (&both, "x.b.example", true),
        (&both, "x.a.example", false),
        (&both, "b.example", false),
    ];
    for (hosts, host, expected) in cases {
        let request = Request::new(host, "/", None, "GET", &[]);
        assert_eq!(takes(&of_hosts(hosts), &request), *expected, "{hosts:?} {host}");
    }
}

#[test]
fn paths() {
    let cases = [
        (exact_path("/v1"), "/v1", true),
        (exact_path("/v1"), "/v1/", false),
        (exact_path("/"), "/", true),
        (exact_path("/"), "/x", false),
        (prefix("/v1"), "/v1", true),
        (prefix("/v1"), "/v1/", true),
        (prefix("/v1"), "/v1/x", true),
        (prefix("/v1"), "/v10", false),
        (prefix("/v1"), "/V1", false),
        (prefix("/v1"), "/x/v1", false),
        (prefix("/v1/"), "/v1", true),
        (prefix("/v1/"), "/v1/", true),
        (prefix("/v1/"), "/v1/x", true),
        (prefix("/v1/"), "/v10", false),
        (prefix("/v1/a"), "/v1/a/b/c", true),
        (prefix("/v1/a"), "/v1", false),
        (prefix("/v1//"), "/v1/", true),
        (prefix("/v1//"), "/v1", false),
        (prefix("/"), "/", true),
        (prefix("/"), "/anything", true),
        (prefix("/"), "*", false),
        (regex("/v[0-9]+"), "/v12", true),
        (regex("/v[0-9]+"), "/v12/x", false),
        (regex("/v[0-9]+"), "/x/v12", false),
        (regex("/a|/b"), "/b", true),
        (regex("/a|/b"), "/a/b", false),
        (regex("/a/bc?"), "/a/b", true),
        (regex("/a/?"), "/a", true),
        (regex("/a/{0,2}b"), "/ab", true),
        (regex("/a/b*"), "/a/", true),
        (regex("(?i)/A/b"), "/a/B", true),
        (regex("/a/b|/c/d"), "/c/d", true),
        (regex(".*"), "/a/b", true),
        (regex("/a$"), "/a", true),
        (regex("/a.*"), "/a\nb", false),
    ];
    for (pattern, path, expected) in cases {
        let request = Request::new("a.example", path, None, "GET", &[]);
        assert_eq!(
            takes(&of_path(pattern.clone()), &request),
            expected,
            "{pattern:?} {path}"
        );
    }
}

#[test]
fn methods() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&[], "BREW", true),
        (&["GET"], "GET", true),
        (&["GET"], "HEAD", false),
        (&["get"], "GET", false),
        (&["GET", "POST"], "POST", true),
        (&["BREW"], "BREW", true),
    ];
    for (methods, method, expected) in cases {
        let request = Request::new("a.example", "/", None, method, &[]);
        assert_eq!(takes(&of_methods(methods), &request), *expected, "{methods:?} {method}");
    }
}

#[test]
fn headers() {
    let cases: &[(ValuePattern, Lines, bool)] = &[
        (ValuePattern::Present, &[], false),
        (ValuePattern::Present, &[("x-a", "")], true),
        (ValuePattern::Present, &[("x-b", "1")], false),
        (value("1"), &[("x-a", "1")], true),
        (value("1"), &[("X-A", "1")], true),
        (value("1"), &[("x-a", "11")], false),
        (value("1"), &[("x-a", "2"), ("x-a", "1")], true),
        (value("1"), &[("x-a", "1, 2")], false),
        (value("a"), &[("x-a", "A")], false),
        (value_regex("[0-9]+"), &[("x-a", "12")], true),
        (value_regex("[0-9]+"), &[("x-a", "12a")], false),
        (value_regex("[0-9]+"), &[("x-a", "a12")], false),
        (value_regex("a|b"), &[("x-a", "ab")], false),
        (value_regex("[0-9]+"), &[("x-a", "x"), ("x-a", "7")], true),
        (value_regex(".*"), &[], false),
        (value_regex("gr.n"), &[("x-a", "grün")], true),
    ];
    for (pattern, headers, expected) in cases {
        let request = Request::new("a.example", "/", None, "GET", headers);
        assert_eq!(
            takes(&of_header("X-a", pattern.clone()), &request),
            *expected,
            "{pattern:?} {headers:?}"
        );
    }
}

/// A route that asks for a certificate takes all from a later one that asks for no less, and from no other.
#[test]
fn certificates() {
    let asking = |subject: Option<ValuePattern>, name: Option<ValuePattern>, fingerprints: &[&str]| Pattern {
        certificate: Some(CertificatePattern {
            subject,
            name,
            fingerprints: fingerprints.iter().map(ToString::to_string).collect(),
        }),
        ..Pattern::default()
    };
    let shown = |subject: &str, names: Vec<SubjectName>, fingerprint: &str| {
        ClientCertificate::new(Bytes::new(), subject.to_owned(), names, fingerprint.to_owned())
    };
    let web = shown("CN=web", vec![SubjectName::Dns("web.example".to_owned())], "00ff");
    let any = asking(None, None, &[]);
    let cases = [
        (any.clone(), true),
        (asking(Some(value("CN=web")), None, &[]), true),
        (asking(Some(value_regex("web")), None, &[]), false),
        (asking(None, Some(value("DNS:web.example")), &["00", "00ff"]), true),
        (asking(None, Some(value("web.example")), &[]), false),
        (asking(Some(value("CN=web")), None, &["00"]), false),
    ];
    let request = Request::new("a.example", "/", None, "GET", &[]);
    for (pattern, expected) in cases {
        let table = Table::build(vec![pattern.clone()]).unwrap();
        let target = Target {
            certificate: Some(&web),
            ..request.target()
        };
        assert_eq!(table.find(&target).is_some(), expected, "{pattern:?}");
        assert_eq!(find_by_index(&table, &target).is_some(), expected, "{pattern:?}");
        assert_eq!(table.find(&request.target()), None, "{pattern:?}: none is shown");
    }
    let shadowed = |patterns: [Pattern; 2]| !Table::build(patterns.to_vec()).unwrap().shadowed().is_empty();
    let web = || asking(Some(value("CN=web")), None, &["00ff"]);
    for (earlier, later, expected) in [
        (Pattern::default(), web(), true),
        (any.clone(), web(), true),
        (web(), any, false),
        (web(), Pattern::default(), false),
        (web(), web(), true),
        (asking(Some(value_regex("CN=.*")), None, &["00", "00ff"]), web(), true),
        (asking(None, Some(ValuePattern::Present), &[]), web(), false),
        (asking(None, None, &["00"]), web(), false),
    ] {
        assert_eq!(
            shadowed([earlier.clone(), later.clone()]),
            expected,
            "{earlier:?} {later:?}"
        );
    }
}

#[test]
fn query() {
    let cases = [
        ("a", ValuePattern::Present, None, false),
        ("a", ValuePattern::Present, Some(""), false),
        ("a", ValuePattern::Present, Some("a"), true),
        ("a", ValuePattern::Present, Some("A=1"), false),
        ("a", ValuePattern::Present, Some("b=a"), false),
        ("", ValuePattern::Present, Some("&&"), false),
        ("", ValuePattern::Present, Some("=1"), true),
        ("a", value(""), Some("a"), true),
        ("a", value(""), Some("a="), true),
        ("a", value("1"), Some("a=1"), true),
        ("a", value("1"), Some("a=12"), false),
        ("a", value("1"), Some("b=1&&a=2&a=1"), true),
        ("a", value("1"), Some("a=2;a=1"), false),
        ("a", value("b=c"), Some("a=b=c"), true),
        ("a", value("1"), Some("%61=%31"), true),
        ("a b", value("c d"), Some("a+b=c%20d"), true),
        ("a", value("+"), Some("a=%2B"), true),
        ("a", value("%"), Some("a=%"), true),
        ("a", value("%4"), Some("a=%4"), true),
        ("a", value("%zz"), Some("a=%zz"), true),
        ("a", value("%41"), Some("a=%2541"), true),
        ("a", value("A"), Some("a=%2541"), false),
        ("a", value("JKjk"), Some("a=%4A%4b%6a%6B"), true),
        ("ü", value("1"), Some("%C3%BC=1"), true),
        ("a", value_regex("[0-9]+"), Some("a=12"), true),
        ("a", value_regex("[0-9]+"), Some("a=x12"), false),
        ("a", value_regex("[0-9]+"), Some("a=x&a=%31"), true),
        ("a", value_regex("(?-u:\\xff)"), Some("a=%FF"), true),
    ];
    for (name, pattern, query, expected) in cases {
        let request = Request::new("a.example", "/", query, "GET", &[]);
        assert_eq!(
            takes(&of_query(name, pattern.clone()), &request),
            expected,
            "{name} {pattern:?} {query:?}"
        );
    }
}

#[test]
fn the_first_match_wins_over_the_closer_one() {
    let patterns = vec![
        of_path(prefix("/a")),
        Pattern {
            path: Some(exact_path("/a/b")),
            ..of_hosts(&[exact_host("www.example.org")])
        },
        of_hosts(&[suffix("example.org")]),
        of_hosts(&[exact_host("www.example.org")]),
        of_methods(&["GET"]),
    ];
    let table = Table::build(patterns).unwrap();
    let cases = [
        ("www.example.org", "/a/b", "GET", Some(0)),
        ("www.example.org", "/b", "GET", Some(2)),
        ("example.org", "/b", "GET", Some(4)),
        ("example.org", "/b", "POST", None),
    ];
    for (host, path, method, expected) in cases {
        let request = Request::new(host, path, None, method, &[]);
        assert_eq!(table.find(&request.target()), expected, "{host}{path}");
        assert_eq!(find_by_index(&table, &request.target()), expected, "{host}{path}");
    }
}

/// Three sets, and one so large that it is split.
#[test]
fn more_regexes_than_one_set_holds() {
    let plain = (0..600).map(|i| of_path(regex(&format!("/users/[0-9]+/{}", i % 590))));
    let large = (0..100).map(|i| of_header("x-a", value_regex(&format!("[a-z]{{400}}{i}"))));
    let table = Table::build(plain.chain(large).collect()).unwrap();
    let line = |i: usize| format!("{}{i}", "z".repeat(400));
    let cases = [
        ("/users/7/0", line(3), Some(0)),
        ("/users/7/300", line(3), Some(300)),
        ("/users/7/589", line(3), Some(589)),
        ("/users/7/590", line(99), Some(699)),
        ("/users/x/1", line(0), Some(600)),
        ("/users/7/590", line(100), None),
    ];
    for (path, line, expected) in cases {
        let request = Request::new("a.example", path, None, "GET", &[("x-a", &line)]);
        assert_eq!(table.find(&request.target()), expected, "{path}");
        assert_eq!(find_in_order(&table, &request.target()), expected, "{path}");
    }
}

#[test]
fn a_fault_names_its_pattern() {
    let cases = [
        (of_path(regex("/(")), "regex: "),
        (of_path(regex("/a)|(?:/b")), "regex: "),
        (of_header("x a", ValuePattern::Present), "not a header name: \"x a\""),
        (of_header("x-a", value_regex("[")), "regex: "),
        (of_query("a", value_regex("[")), "regex: "),
        (of_methods(&["GE T"]), "not a method: \"GE T\""),
    ];
    for (pattern, text) in cases {
        let error = Table::build(vec![Pattern::default(), pattern]).unwrap_err();
        assert_eq!(error.index, 1);
        assert!(error.to_string().starts_with(&format!("route 2: {text}")), "{error}");
    }
}

#[test]
fn shadows() {
    let any = Pattern::default;
    let cases = [
        (any(), of_methods(&["GET"]), true),
        (of_methods(&["GET"]), any(), false),
        (of_methods(&["GET", "POST"]), of_methods(&["POST"]), true),
        (of_methods(&["POST"]), of_methods(&["GET", "POST"]), false),
        (of_path(prefix("/")), any(), true),
        (of_path(prefix("/a")), any(), false),
        (of_path(prefix("/a")), of_path(prefix("/a/")), true),
        (of_path(prefix("/a")), of_path(exact_path("/a/b")), true),
        (of_path(prefix("/a")), of_path(exact_path("/ab")), false),
        (of_path(prefix("/a")), of_path(regex("/a/[0-9]+")), true),
        (of_path(prefix("/a")), of_path(regex("/a/?b")), false),
        (of_path(prefix("/a")), of_path(regex("/a/x|/b/x")), false),
        (of_path(regex("/[ab]")), of_path(exact_path("/b")), true),
        (of_path(regex("/[ab]")), of_path(regex("/[ab]")), true),
        (of_path(regex("/[ab]")), of_path(prefix("/a")), false),
        (of_path(exact_path("/a")), of_path(prefix("/a")), false),
        (
            of_hosts(&[suffix("x")]),
            of_hosts(&[exact_host("a.x"), suffix("b.x"), suffix("x")]),
            true,
        ),
        (
            of_hosts(&[suffix("x")]),
            of_hosts(&[exact_host("a.x"), exact_host("x")]),
            false,
        ),
        (of_hosts(&[suffix("x")]), any(), false),
        (of_hosts(&[exact_host("a.x")]), of_hosts(&[suffix("x")]), false),
        (of_header("a", ValuePattern::Present), of_header("A", value("1")), true),
        (of_header("a", value_regex("[0-9]")), of_header("a", value("1")), true),
        (of_header("a", value("1")), of_header("a", value_regex("[0-9]")), false),
        (of_header("a", value("1")), of_header("b", value("1")), false),
        (of_header("a", value("1")), any(), false),
        (
            of_query("a", ValuePattern::Present),
            of_query("a", value_regex("1")),
            true,
        ),
        (
            of_query("a", ValuePattern::Present),
            of_query("A", value_regex("1")),
            false,
        ),
    ];
    for (earlier, later, expected) in cases {
        let table = Table::build(vec![earlier.clone(), later.clone()]).unwrap();
        let shadowed = if expected { vec![(1, 0)] } else { vec![] };
        assert_eq!(table.shadowed(), shadowed, "{earlier:?} {later:?}");
    }
}

#[test]
fn a_table_is_shared_by_all_workers() {
    fn shared<T: Send + Sync>() {}
    shared::<Table>();
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    prop_oneof![
        select(&["x", "a.x", "b.x", "a.b.x", "y"][..]).prop_map(exact_host),
        select(&["x", "b.x", "a.b.x", "y"][..]).prop_map(suffix),
    ]
}

fn path_pattern() -> impl Strategy<Value = PathPattern> {
    const PATHS: &[&str] = &["/", "/a", "/a/", "/b", "/a/b", "/a/b/", "/a/b/c", "/ab", "/a//b"];
    const REGEXES: &[&str] = &[
        "/a/?",
        "/a/[abc]",
        "/a/b*",
        "/a|/b",
        "/(a|b)/c",
        "/a/b/?.*",
        ".*",
        "(?i)/A",
        "/a/b{0,1}",
        "/a/b",
        "/.",
        "/b/c+",
        "/[^/]*/b",
        "/a/b/[a-c]",
        "/a/(b)",
        "a",
        "/a+/b",
        "/a/b|/b/c",
        "/a/b/{0,1}c",
        "/a/b/?",
    ];
    prop_oneof![
        2 => select(PATHS).prop_map(exact_path),
        3 => select(PATHS).prop_map(prefix),
        2 => select(REGEXES).prop_map(regex),
    ]
}

fn value_pattern() -> impl Strategy<Value = ValuePattern> {
    prop_oneof![
        1 => Just(ValuePattern::Present),
        3 => select(&["", "1", "2", "a b"][..]).prop_map(value),
        2 => select(&["", "1", "[12]", "1.*", ".*2", "a.b", "1|2", "12?", "[^1]", "2+", "(?:1|a).*"][..]).prop_map(value_regex),
    ]
}

fn header_pattern() -> impl Strategy<Value = HeaderPattern> {
    let name = select(&["x-a", "x-b", "accept"][..]).prop_map(str::to_owned);
    (name, value_pattern()).prop_map(|(name, value)| HeaderPattern { name, value })
}

fn query_pattern() -> impl Strategy<Value = QueryPattern> {
    let name = select(&["a", "b", "a b", ""][..]).prop_map(str::to_owned);
    (name, value_pattern()).prop_map(|(name, value)| QueryPattern { name, value })
}

/// At most `most` of them, and mostly none, or hardly anything would match.
fn some<S: Strategy>(most: usize, item: impl Fn() -> S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(item(), 1..=most)]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let method = || select(&["GET", "POST", "BREW"][..]).prop_map(str::to_owned);
    let path = prop::option::weighted(0.6, path_pattern());
    (
        some(3, host_pattern),
        path,
        some(2, method),
        some(2, header_pattern),
        some(2, query_pattern),
    )
        .prop_map(|(hosts, path, methods, headers, query)| Pattern {
            hosts,
            path,
            methods,
            headers,
            query,
            certificate: None,
        })
}

/// All on one shelf, and never without a further condition, so that it is a long one and often searched to its end.
fn crowded_pattern() -> impl Strategy<Value = Pattern> {
    let narrowed = |pattern: &Pattern| {
        let regex = matches!(pattern.path, Some(PathPattern::Regex(_)));
        regex || !(pattern.methods.is_empty() && pattern.headers.is_empty() && pattern.query.is_empty())
    };
    pattern()
        .prop_map(|pattern| Pattern {
            hosts: Vec::new(),
            ..pattern
        })
        .prop_map(without_folder)
        .prop_filter("", narrowed)
}

fn without_folder(pattern: Pattern) -> Pattern {
    let path = pattern.path.filter(|path| matches!(path, PathPattern::Regex(_)));
    Pattern { path, ..pattern }
}

fn patterns() -> impl Strategy<Value = Vec<Pattern>> {
    prop_oneof![
        prop::collection::vec(pattern(), 0..12),
        prop::collection::vec(pattern(), 12..40),
        prop::collection::vec(crowded_pattern(), 9..40),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    let host = select(
        &[
            "x", "a.x", "b.x", "c.b.x", "a.b.x", "c.a.b.x", "y", "a.y", "xx", "", ".x", "..x", "a..x", "a.x.",
        ][..],
    );
    let path = select(
        &[
            "/", "/a", "/a/", "/b", "/a/b", "/a/b/", "/a/b/c", "/ab", "/a//b", "/A", "/b/c", "/c", "/aa/b", "*",
        ][..],
    );
    let piece = select(
        &[
            "a",
            "a=",
            "a=1",
            "a=2",
            "a=12",
            "b=1",
            "b=%32",
            "%61=1",
            "a+b=1",
            "a%20b=a+b",
            "=1",
            "",
            "c=1",
            "a=%",
            "a=1%2",
        ][..],
    );
    let query = prop::option::of(prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.join("&")));
    let method = select(&["GET", "POST", "BREW", "HEAD"][..]);
    let name = select(&["x-a", "x-b", "accept", "x-c"][..]);
    let header = (name, select(&["", "1", "2", "12", "a b", "22"][..]));
    let headers = prop::collection::vec(header, 0..6);
    (host, path, query, method, headers)
        .prop_map(|(host, path, query, method, headers)| Request::new(host, path, query.as_deref(), method, &headers))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn shadows_are_those_of_every_pair(patterns in patterns()) {
        let table = Table::build(patterns).unwrap();
        let earlier = |later: usize| (0..later).find(|at| table.rules[*at].covers(&table.rules[later]));
        let pairs: Vec<_> = (0..table.rules.len()).filter_map(|later| Some((later, earlier(later)?))).collect();
        prop_assert_eq!(table.shadowed(), pairs);
    }

    #[test]
    fn the_index_answers_what_trying_in_order_does(patterns in patterns(), requests in prop::collection::vec(request(), 12)) {
        let table = Table::build(patterns).unwrap();
        let shadowed = table.shadowed();
        for request in &requests {
            let target = request.target();
            let expected = find_in_order(&table, &target);
            prop_assert_eq!(find_by_index(&table, &target), expected, "{:?}", request);
            prop_assert_eq!(table.find(&target), expected, "{:?}", request);
            let takes = |route: usize| table.rules[route].matches(&Probe::new(&target));
            // `*` breaks the target's promise of a leading slash, on which `shadowed` relies.
            for &(later, earlier) in shadowed.iter().filter(|_| target.path != "*") {
                prop_assert!(earlier < later && (!takes(later) || takes(earlier)), "{} {} {:?}", later, earlier, request);
            }
        }
    }
}
