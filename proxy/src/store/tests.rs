//! The table against a plain list that is searched from end to end; its bounds under filters that mean harm; and claims
//! in every order of claiming, waiting, giving up and setting.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;

use proptest::prelude::*;

use super::*;

fn bounds(bytes: usize, keys: usize, claims: usize) -> Bounds {
    Bounds { bytes, keys, claims }
}

/// One shard with room for so many entries whose keys and values together take up to 14 bytes.
fn room_for(entries: usize) -> Bounds {
    bounds(entries * (ENTRY_OVERHEAD + 14), usize::MAX, 100)
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn set(table: &Table, key: &str, value: &str, now: Instant) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    table.set(key, value, None, now).unwrap();
}

fn present(table: &Table, keys: &str, now: Instant) -> String {
    keys.chars()
        .filter(|key| table.get(&key.to_string(), now).is_some())
        .collect()
}

fn random(seed: &mut u64) -> u64 {
    // SplitMix64.
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// The number of claims, and of those who wait.
fn audit(table: &Table) -> (usize, usize) {
    table.shards.iter().fold((0, 0), |(claims, waiting), shard| {
        let shard = lock(shard);
        shard.entries.audit();
        let (more_claims, more_waiting) = shard.flights.audit();
        (claims + more_claims, waiting + more_waiting)
    })
}

mod values {
    use super::*;

    #[test]
    fn what_is_set_is_there_until_it_is_deleted() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        assert_eq!(table.get("a", now), None);
        set(&table, "a", "one", now);
        set(&table, "b", "", now);
        assert_eq!(table.get("a", now).unwrap(), "one");
        assert_eq!(table.get("b", now).unwrap(), "");
        set(&table, "a", "two", now);
        assert_eq!(table.get("a", now).unwrap(), "two");
        assert!(table.delete("a", now));
        assert!(!table.delete("a", now));
        assert_eq!(table.get("a", now), None);
        let stats = table.stats();
        assert_eq!((stats.keys, stats.bytes), (1, 1 + ENTRY_OVERHEAD));
        assert_eq!((stats.hits, stats.misses, stats.evictions), (3, 2, 0));
    }

    #[test]
    fn a_value_expires_at_its_time_and_not_before() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        let value = Bytes::from_static(b"v");
        table.set("a", value.clone(), Some(seconds(2)), now).unwrap();
        let before = now + seconds(2) - Duration::from_nanos(1);
        assert_eq!(table.get("a", before), Some(value.clone()));
        assert_eq!(table.get("a", now + seconds(2)), None);
        assert_eq!(table.stats().keys, 0, "it was dropped when it was asked for");
        table.set("a", value.clone(), Some(seconds(2)), now).unwrap();
        assert!(!table.delete("a", now + seconds(2)));
        table.set("a", value.clone(), Some(Duration::ZERO), now).unwrap();
        assert_eq!(table.get("a", now), None);
        table.set("a", value.clone(), Some(Duration::MAX), now).unwrap();
        assert_eq!(table.get("a", now + seconds(1 << 40)), Some(value));
        assert_eq!(table.stats().evictions, 0);
    }

    #[test]
    fn setting_again_takes_the_new_time_to_live_or_none() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        let value = Bytes::from_static(b"v");
        for (ttl, lives) in [(Some(seconds(1)), false), (None, true), (Some(seconds(9)), true)] {
            table.set("a", value.clone(), Some(seconds(2)), now).unwrap();
            table.set("a", value.clone(), ttl, now).unwrap();
            assert_eq!(table.get("a", now + seconds(3)).is_some(), lives, "{ttl:?}");
            audit(&table);
        }
    }

    #[test]
    fn a_swap_compares_with_what_is_there() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        let swap = |expected: Option<&str>, value: &'static str, now| {
            let expected = expected.map(str::as_bytes);
            table
                .compare_and_swap(
                    "a",
                    expected,
                    Bytes::from_static(value.as_bytes()),
                    Some(seconds(5)),
                    now,
                )
                .unwrap()
        };
        assert!(!swap(Some("x"), "no", now));
        assert!(!swap(Some(""), "no", now));
        assert!(swap(None, "one", now));
        assert!(!swap(None, "no", now));
        assert!(!swap(Some("on"), "no", now));
        assert!(swap(Some("one"), "two", now));
        assert_eq!(table.get("a", now).unwrap(), "two");
        assert!(!swap(Some("two"), "no", now + seconds(5)), "it has expired");
        assert!(swap(None, "three", now + seconds(5)));
        assert_eq!(table.get("a", now + seconds(6)).unwrap(), "three");
    }

    #[test]
    fn a_counter_begins_at_zero_and_keeps_its_time() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        let add = |by, now| table.add("n", by, Some(seconds(10)), now).unwrap();
        assert_eq!(add(5, now), 5);
        assert_eq!(add(-7, now + seconds(9)), -2);
        assert_eq!(table.get("n", now).unwrap(), (-2_i64).to_le_bytes()[..]);
        assert_eq!(add(1, now + seconds(10)), 1, "its time was set when it began");
        assert_eq!(add(1, now + seconds(19)), 2);
    }

    #[test]
    fn a_counter_stops_at_the_ends_of_its_range() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        for (first, second, sum) in [
            (i64::MAX, 1, i64::MAX),
            (i64::MIN, -1, i64::MIN),
            (i64::MAX, i64::MIN, -1),
        ] {
            table.delete("n", now);
            table.add("n", first, None, now).unwrap();
            assert_eq!(table.add("n", second, None, now).unwrap(), sum);
        }
    }

    #[test]
    fn what_is_no_counter_counts_as_zero_and_begins_one() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        for other in ["", "seven b", "nine byte"] {
            set(&table, "n", other, now);
            assert_eq!(table.add("n", 3, Some(seconds(1)), now).unwrap(), 3, "{other:?}");
            assert_eq!(table.get("n", now + seconds(1)), None, "{other:?}: no time was set");
        }
        set(&table, "n", "\u{1}\0\0\0\0\0\0\0", now);
        assert_eq!(table.add("n", 1, None, now).unwrap(), 2);
    }
}

mod updates {
    use super::*;

    #[test]
    fn an_update_sees_what_is_there_and_keeps_its_time() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        let longer = |present: Option<&[u8]>| Some(Bytes::from([present.unwrap_or(b"-"), b"+"].concat()));
        assert_eq!(table.update("key", longer, now).unwrap().unwrap(), "-+");
        let short = Bytes::from_static(b"a");
        table.set("key", short, Some(seconds(2)), now).unwrap();
        assert_eq!(table.update("key", longer, now + seconds(1)).unwrap().unwrap(), "a+");
        assert_eq!(table.update("key", |_| None, now).unwrap(), None);
        assert_eq!(table.get("key", now).unwrap(), "a+");
        assert_eq!(table.update("key", longer, now + seconds(2)).unwrap().unwrap(), "-+");
        let huge = |_: Option<&[u8]>| Some(Bytes::from(vec![0; 3 << 20]));
        assert_eq!(table.update("key", huge, now), Err(StoreError::TooLarge));
        audit(&table);
    }

    #[test]
    fn updates_from_many_threads_are_one_after_the_other() {
        let table = Table::new(Bounds::default());
        let one_more = |present: Option<&[u8]>| {
            let count = present.map_or(0, |digits| std::str::from_utf8(digits).unwrap().parse::<u32>().unwrap());
            Some(Bytes::from((count + 1).to_string()))
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| drop(table.update("count", one_more, Instant::now()))));
            }
        });
        assert_eq!(table.get("count", Instant::now()).unwrap(), "4000");
    }
}

mod lists {
    use super::*;

    /// Every page, with what is done between two.
    fn pages(table: &Table, now: Instant, mut between: impl FnMut(&[Arc<str>])) -> Vec<Vec<Arc<str>>> {
        let (mut pages, mut from) = (Vec::new(), None);
        loop {
            let (keys, next) = table.keys(from, now);
            between(&keys);
            pages.push(keys);
            if next.is_none() {
                return pages;
            }
            from = next;
        }
    }

    fn filled(keys: usize, now: Instant) -> Table {
        let table = Table::new(bounds(64 << 20, 1 << 20, 1));
        (0..keys).for_each(|number| set(&table, &format!("key-{number}"), "", now));
        table
    }

    #[test]
    fn each_key_is_listed_once() {
        let now = Instant::now();
        for count in [0, 1, 3, 1_000, 10_000] {
            let table = filled(count, now);
            let pages = pages(&table, now, |_| ());
            assert!(pages.iter().all(|page| page.len() <= 1_000));
            let mut keys: Vec<_> = pages.concat();
            keys.sort();
            keys.dedup();
            assert_eq!((pages.concat().len(), keys.len()), (count, count));
        }
    }

    #[test]
    fn whoever_deletes_what_was_listed_meets_all_the_others() {
        let now = Instant::now();
        let table = filled(10_000, now);
        let pages = pages(&table, now, |keys| {
            keys.iter().for_each(|key| assert!(table.delete(key, now)));
        });
        assert_eq!(pages.concat().len(), 10_000);
        assert_eq!(table.stats().keys, 0);
    }

    #[test]
    fn a_key_that_stays_is_not_missed_whatever_comes_and_goes() {
        let now = Instant::now();
        let table = filled(5_000, now);
        set(&table, "stays", "", now);
        for round in 0..20 {
            let mut seed = round;
            let pages = pages(&table, now, |_| {
                for _ in 0..500 {
                    let name = format!("key-{}", random(&mut seed) % 10_000);
                    match random(&mut seed) % 2 {
                        0 => set(&table, &name, "", now),
                        _ => drop(table.delete(&name, now)),
                    }
                }
            });
            assert!(pages.concat().iter().any(|key| &**key == "stays"), "round {round}");
        }
    }

    #[test]
    fn what_has_expired_is_not_listed_and_long_keys_make_short_pages() {
        let now = Instant::now();
        let table = filled(0, now);
        for number in 0..8 {
            set(&table, &format!("{number}{}", "k".repeat(40 << 10)), "", now);
        }
        table.set("gone", Bytes::new(), Some(seconds(1)), now).unwrap();
        let pages = pages(&table, now + seconds(1), |_| ());
        assert_eq!(pages.concat().len(), 8);
        assert!(pages.iter().all(|page| page.len() <= 2));
    }

    #[test]
    fn a_made_up_place_lists_what_is_before_it() {
        let now = Instant::now();
        let table = filled(10, now);
        for place in [
            0,
            1,
            5,
            u64::from(u32::MAX),
            u64::from(u32::MAX) + 1,
            3 << 32,
            4 << 32,
            1 << 63,
            u64::MAX,
        ] {
            assert!(table.keys(Some(place), now).0.len() <= 10, "{place}");
        }
        assert_eq!(table.keys(Some(u64::MAX), now), (Vec::new(), None));
    }
}

mod room {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let (table, now) = (Table::new(room_for(3)), Instant::now());
        for key in ["a", "b", "c"] {
            set(&table, key, "v", now);
        }
        table.get("a", now);
        set(&table, "d", "v", now);
        assert_eq!(present(&table, "abcd", now), "acd");
        set(&table, "a", "w", now);
        set(&table, "e", "v", now);
        assert_eq!(present(&table, "acde", now), "ade", "being set is being used");
        assert_eq!(table.stats().evictions, 2);
        audit(&table);
    }

    #[test]
    fn the_number_of_keys_is_bounded_too() {
        let (table, now) = (Table::new(bounds(1 << 20, 2, 1)), Instant::now());
        for key in ["a", "b", "c"] {
            set(&table, key, "v", now);
        }
        assert_eq!(present(&table, "abc", now), "bc");
    }

    #[test]
    fn what_has_expired_makes_room_first() {
        let (table, now) = (Table::new(room_for(3)), Instant::now());
        set(&table, "a", "v", now);
        let value = Bytes::from_static(b"v");
        table.set("b", value.clone(), Some(seconds(2)), now).unwrap();
        table.set("c", value, Some(seconds(1)), now).unwrap();
        set(&table, "d", "v", now + seconds(1));
        assert_eq!(present(&table, "abcd", now + seconds(1)), "abd");
        assert_eq!(table.stats().evictions, 0);
    }

    #[test]
    fn what_has_expired_does_not_pile_up() {
        let (table, now) = (Table::new(bounds(1 << 20, 1 << 20, 1)), Instant::now());
        for count in 0..1_000_u64 {
            let now = now + seconds(count);
            let (key, value) = (count.to_string(), Bytes::from_static(b"v"));
            table.set(&key, value, Some(seconds(10)), now).unwrap();
            assert!(table.stats().keys <= 11);
        }
    }

    #[test]
    fn a_longer_value_in_place_makes_room_and_keeps_itself() {
        let (table, now) = (Table::new(room_for(16)), Instant::now());
        let keys: Vec<String> = ('a'..='p').map(String::from).collect();
        for key in &keys {
            set(&table, key, "0123456789abc", now);
        }
        assert_eq!(table.stats().keys, 16);
        set(&table, "a", &"x".repeat(400), now);
        assert_eq!(table.get("a", now).unwrap().len(), 400);
        assert_eq!((table.stats().keys, table.stats().evictions), (14, 2));
        assert_eq!(table.get("b", now), None);
        audit(&table);
    }

    #[test]
    fn a_long_swap_does_not_drop_what_it_compares_with() {
        let (table, now) = (Table::new(room_for(1_000)), Instant::now());
        set(&table, "a", "v", now);
        for count in 0..999 {
            set(&table, &count.to_string(), "", now);
        }
        let long = Bytes::from(vec![0; 2 * STEP * ENTRY_OVERHEAD]);
        assert!(
            table
                .compare_and_swap("a", Some(b"v"), long.clone(), None, now)
                .unwrap()
        );
        assert_eq!(table.get("a", now), Some(long));
        let dropped = (0..999)
            .filter(|count| table.get(&count.to_string(), now).is_none())
            .count();
        assert_eq!(table.stats().evictions, dropped as u64);
        assert!(
            table.get(&dropped.to_string(), now).is_some(),
            "the oldest of the others went"
        );
    }

    #[test]
    fn too_large_is_over_an_eighth_of_the_table_key_included() {
        let (table, now) = (Table::new(bounds(80_000, 100, 1)), Instant::now());
        let value = |length| Bytes::from(vec![0; length]);
        table.set("abc", value(9_997), None, now).unwrap();
        let too_large = Err(StoreError::TooLarge);
        assert_eq!(table.set("abc", value(9_998), None, now), too_large);
        assert_eq!(
            table.compare_and_swap("abc", None, value(9_998), None, now),
            Err(StoreError::TooLarge)
        );
        let long = "k".repeat(9_993);
        assert_eq!(table.add(&long, 1, None, now), Err(StoreError::TooLarge));
        table.add(&long[1..], 1, None, now).unwrap();
        assert_eq!(
            table.get("abc", now).unwrap().len(),
            9_997,
            "what was refused changed nothing"
        );
    }

    #[test]
    fn a_table_without_room_for_one_entry_refuses_all() {
        for bytes in [0, 1, ENTRY_OVERHEAD, 8 * ENTRY_OVERHEAD] {
            let table = Table::new(bounds(bytes, 0, 0));
            let set = table.set("key", Bytes::from_static(b"value"), None, Instant::now());
            let expected = if bytes < ENTRY_OVERHEAD + 8 {
                Err(StoreError::TooLarge)
            } else {
                Ok(())
            };
            assert_eq!(set, expected, "{bytes}");
            audit(&table);
        }
    }

    #[test]
    fn the_largest_entry_has_room_in_a_table_of_many_shards() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        assert_eq!(table.shards.len(), MAX_SHARDS);
        for count in 0..100 {
            let key = format!("{count:03}");
            let value = Bytes::from(vec![7; Bounds::default().bytes / ENTRY_PART - key.len()]);
            table.set(&key, value, None, now).unwrap();
            assert!(table.get(&key, now).is_some());
            audit(&table);
        }
    }

    #[test]
    fn random_keys_for_ever_do_not_grow_a_table() {
        let bounds = bounds(4 << 20, 1 << 20, 10);
        let (table, mut now) = (Table::new(bounds), Instant::now());
        let mut seed = 7;
        for count in 0..60_000 {
            let choice = random(&mut seed);
            let key = format!("{:x}", random(&mut seed));
            now += Duration::from_micros(choice % 100);
            // Phases of short values and of long ones, with and without a time to live.
            let length = if count / 20_000 == 1 {
                choice % 20_000
            } else {
                choice % 40
            };
            let ttl = (!choice.is_multiple_of(3)).then(|| Duration::from_millis(choice % 5_000));
            table.set(&key, vec![0; length as usize].into(), ttl, now).unwrap();
            if choice.is_multiple_of(16) {
                table.delete(&key, now);
            }
            let stats = table.stats();
            assert!(stats.bytes <= bounds.bytes, "{stats:?}");
            if count % 5_000 == 0 {
                audit(&table);
            }
        }
        assert!(table.stats().bytes > bounds.bytes * 9 / 10, "it is of use nevertheless");
        audit(&table);
    }

    #[test]
    fn emptied_it_keeps_little() {
        let (table, now) = (Table::new(bounds(1 << 20, 1 << 20, 1)), Instant::now());
        let keys: Vec<_> = (0..2_500).map(|count| count.to_string()).collect();
        for key in &keys {
            table.set(key, Bytes::new(), Some(seconds(1)), now).unwrap();
        }
        for key in &keys {
            assert!(table.delete(key, now));
            audit(&table);
        }
        assert_eq!((table.stats().keys, table.stats().bytes), (0, 0));
    }
}

mod change_of_bounds {
    use super::*;

    #[test]
    fn a_smaller_table_keeps_what_was_used_last() {
        let (table, now) = (Table::new(room_for(5)), Instant::now());
        for key in ["a", "b", "c", "d", "e"] {
            set(&table, key, "v", now);
        }
        table.get("a", now);
        table.resize(room_for(2), now);
        assert_eq!(present(&table, "abcde", now), "ae");
        assert_eq!(table.bounds(), room_for(2));
        set(&table, "f", "v", now);
        assert_eq!(present(&table, "aef", now), "ef");
        audit(&table);
    }

    #[test]
    fn a_larger_table_keeps_all_and_has_room() {
        let (table, now) = (Table::new(room_for(2)), Instant::now());
        for key in ["a", "b"] {
            set(&table, key, "v", now);
        }
        table.resize(room_for(4), now);
        for key in ["c", "d"] {
            set(&table, key, "v", now);
        }
        assert_eq!(present(&table, "abcd", now), "abcd");
        table.resize(bounds(1 << 20, 3, 0), now);
        assert_eq!(table.stats().keys, 3);
    }

    #[test]
    fn thousands_are_dropped_in_steps() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        for count in 0..10_000 {
            set(&table, &count.to_string(), "v", now);
        }
        let small = bounds(80_000, 1 << 16, 5);
        table.resize(small, now);
        let stats = table.stats();
        assert!(stats.bytes <= small.bytes && stats.bytes > small.bytes / 2, "{stats:?}");
        audit(&table);
    }

    #[test]
    fn while_it_shrinks_nothing_grows() {
        let now = Instant::now();
        // What is there, and what is put there meanwhile: by number and by length.
        for (present, new) in [(0, 500), (500, 0)] {
            let mut entries = Entries::new(limits(bounds(1 << 20, 500, 0), 1));
            for count in 0..500 {
                entries.put(&count.to_string(), vec![0; present].into(), None, now);
            }
            let mut before = stats(&entries);
            let mut steps = 0;
            while !entries.resize(limits(bounds(1 << 20, 10, 0), 1), STEP, now) {
                let dropped = stats(&entries);
                for count in 0..5 {
                    entries.put(&format!("new {count}"), vec![0; new].into(), None, now);
                }
                entries.audit();
                let after = stats(&entries);
                assert_eq!(dropped.keys, before.keys - STEP);
                assert!(after.keys <= dropped.keys && after.bytes <= dropped.bytes, "{after:?}");
                before = after;
                steps += 1;
            }
            assert!(steps > 3, "{steps}");
            entries.audit();
            assert!(stats(&entries).keys <= 10);
        }
    }

    fn stats(entries: &Entries) -> Stats {
        let mut stats = Stats::default();
        entries.add_to(&mut stats);
        stats
    }

    #[test]
    fn room_for_a_long_value_is_made_in_steps_and_is_enough() {
        let now = Instant::now();
        let mut entries = Entries::new(limits(bounds(500 * ENTRY_OVERHEAD, usize::MAX, 0), 1));
        for count in 0..400 {
            entries.put(&count.to_string(), Bytes::new(), None, now);
        }
        let length = 60 * 1_024;
        let mut before = stats(&entries).keys;
        while !entries.make_room("long", length, STEP, now) {
            let after = stats(&entries).keys;
            assert_eq!(after, before - STEP);
            before = after;
        }
        let evictions = stats(&entries).evictions;
        assert!(evictions > STEP as u64);
        entries.put("long", vec![0; length].into(), None, now);
        assert_eq!(stats(&entries).evictions, evictions);
        assert!(entries.make_room("long", length, STEP, now));
        assert_eq!(
            stats(&entries).evictions,
            evictions,
            "what is replaced needs no room twice"
        );
    }

    #[test]
    fn claims_that_are_too_many_end_as_they_would_have() {
        let (table, now) = (Arc::new(Table::new(bounds(1 << 20, 100, 2))), Instant::now());
        let claims = ["a", "b"].map(|key| table.claim(key, now));
        table.resize(bounds(1 << 20, 100, 1), now);
        drop(claims);
        let _first = table.claim("a", now);
        assert!(matches!(table.claim("b", now), Claimed::TooMany));
    }
}

mod against_a_plain_list {
    use super::*;

    struct Entry {
        key: String,
        value: Vec<u8>,
        deadline: Option<Instant>,
    }

    impl Entry {
        fn cost(&self) -> usize {
            self.key.len() + self.value.len() + ENTRY_OVERHEAD
        }
    }

    /// Entries in the order of their use, the oldest first.
    struct Model {
        bounds: Bounds,
        entries: Vec<Entry>,
        now: Instant,
        hits: u64,
        misses: u64,
        evictions: u64,
    }

    impl Model {
        fn find(&mut self, key: &str) -> Option<usize> {
            let now = self.now;
            self.entries
                .retain(|entry| entry.deadline.is_none_or(|deadline| deadline > now));
            self.entries.iter().position(|entry| entry.key == key)
        }

        fn value(&mut self, key: &str) -> Option<Vec<u8>> {
            let at = self.find(key)?;
            Some(self.entries[at].value.clone())
        }

        fn get(&mut self, key: &str) -> Option<Vec<u8>> {
            let Some(at) = self.find(key) else {
                self.misses += 1;
                return None;
            };
            self.hits += 1;
            let used = self.entries.remove(at);
            let value = used.value.clone();
            self.entries.push(used);
            Some(value)
        }

        fn delete(&mut self, key: &str) -> bool {
            self.find(key).map(|at| self.entries.remove(at)).is_some()
        }

        fn fits(&self, key: &str, length: usize) -> bool {
            let length = key.len() + length;
            length <= self.bounds.bytes / 8 && length + ENTRY_OVERHEAD <= self.bounds.bytes
        }

        fn put(&mut self, key: &str, value: Vec<u8>, deadline: Option<Instant>) {
            self.delete(key);
            let key = key.to_owned();
            self.entries.push(Entry { key, value, deadline });
            self.shrink();
        }

        fn shrink(&mut self) {
            // Drops what has expired.
            self.find("");
            let over = |model: &Model| {
                let bytes: usize = model.entries.iter().map(Entry::cost).sum();
                bytes > model.bounds.bytes || model.entries.len() > model.bounds.keys.max(1)
            };
            while over(self) {
                self.entries.remove(0);
                self.evictions += 1;
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Get(u8),
        Set(u8, usize, Option<u64>),
        Delete(u8),
        /// Expects what is there, or else something that never is.
        Swap(u8, bool, usize, Option<u64>),
        SwapIfNone(u8, usize),
        Add(u8, i64, Option<u64>),
        Resize(usize, usize),
    }

    /// `short` to `long` is the ratio of short values to those of any length.
    fn step(keys: u8, longest: usize, short: u32, long: u32) -> impl Strategy<Value = Step> {
        let key = 0..keys;
        let ttl = prop::option::of(1_u64..20);
        let length = prop_oneof![short => 0..=8_usize, long => 0..=longest];
        prop_oneof![
            2 => (0_u64..5).prop_map(Step::Wait),
            4 => key.clone().prop_map(Step::Get),
            8 => (key.clone(), length.clone(), ttl.clone()).prop_map(|(key, length, ttl)| Step::Set(key, length, ttl)),
            1 => key.clone().prop_map(Step::Delete),
            2 => (key.clone(), any::<bool>(), length.clone(), ttl.clone())
                .prop_map(|(key, right, length, ttl)| Step::Swap(key, right, length, ttl)),
            1 => (key.clone(), length).prop_map(|(key, length)| Step::SwapIfNone(key, length)),
            3 => (key, any::<i64>(), ttl).prop_map(|(key, by, ttl)| Step::Add(key, by, ttl)),
            1 => (0..longest * 12, 0..usize::from(keys)).prop_map(|(bytes, keys)| Step::Resize(bytes, keys)),
        ]
    }

    fn check(bytes: usize, keys: usize, steps: Vec<Step>) -> Result<(), TestCaseError> {
        let table = Table::new(bounds(bytes, keys, 1));
        let mut model = Model {
            bounds: table.bounds(),
            entries: Vec::new(),
            now: Instant::now(),
            hits: 0,
            misses: 0,
            evictions: 0,
        };
        for (number, step) in steps.into_iter().enumerate() {
            let now = model.now;
            let name = |key: u8| format!("{key}");
            let lives = |ttl: Option<u64>| ttl.map(seconds);
            let until = |ttl: Option<u64>| ttl.map(|ttl| now + seconds(ttl));
            let value = |length: usize| vec![number as u8; length];
            match step {
                Step::Wait(time) => model.now += seconds(time),
                Step::Get(key) => {
                    let found = table.get(&name(key), now).map(Vec::from);
                    prop_assert_eq!(found, model.get(&name(key)));
                }
                Step::Set(key, length, ttl) => {
                    let done = table.set(&name(key), value(length).into(), lives(ttl), now);
                    prop_assert_eq!(done.is_ok(), model.fits(&name(key), length));
                    if done.is_ok() {
                        model.put(&name(key), value(length), until(ttl));
                    }
                }
                Step::Delete(key) => prop_assert_eq!(table.delete(&name(key), now), model.delete(&name(key))),
                Step::Swap(key, right, length, ttl) => {
                    let present = model.value(&name(key)).filter(|_| right);
                    let expected = present.as_deref().unwrap_or(b"never there");
                    let done =
                        table.compare_and_swap(&name(key), Some(expected), value(length).into(), lives(ttl), now);
                    prop_assert_eq!(done.is_ok(), model.fits(&name(key), length));
                    if let Ok(swapped) = done {
                        prop_assert_eq!(swapped, present.is_some());
                    }
                    if done == Ok(true) {
                        model.put(&name(key), value(length), until(ttl));
                    }
                }
                Step::SwapIfNone(key, length) => {
                    let done = table.compare_and_swap(&name(key), None, value(length).into(), None, now);
                    prop_assert_eq!(done.is_ok(), model.fits(&name(key), length));
                    if let Ok(swapped) = done {
                        prop_assert_eq!(swapped, model.find(&name(key)).is_none());
                    }
                    if done == Ok(true) {
                        model.put(&name(key), value(length), None);
                    }
                }
                Step::Add(key, by, ttl) => {
                    let key = name(key);
                    let done = table.add(&key, by, lives(ttl), now);
                    prop_assert_eq!(done.is_ok(), model.fits(&key, 8));
                    if let Ok(sum) = done {
                        let counter = model.find(&key).filter(|at| model.entries[*at].value.len() == 8);
                        let (count, deadline) = counter.map_or((0, until(ttl)), |at| {
                            let entry = &model.entries[at];
                            (i64::from_le_bytes(entry.value[..].try_into().unwrap()), entry.deadline)
                        });
                        prop_assert_eq!(sum, count.saturating_add(by));
                        model.put(&key, sum.to_le_bytes().to_vec(), deadline);
                    }
                }
                Step::Resize(bytes, keys) => {
                    table.resize(bounds(bytes, keys, 1), now);
                    model.bounds = bounds(bytes, keys, 1);
                    model.shrink();
                }
            }
            audit(&table);
            let stats = table.stats();
            model.find("");
            prop_assert!(stats.keys >= model.entries.len());
            prop_assert_eq!(
                (stats.hits, stats.misses, stats.evictions),
                (model.hits, model.misses, model.evictions)
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn small_entries_in_a_small_table(steps in prop::collection::vec(step(12, 400, 4, 1), 0..150)) {
            check(6 * ENTRY_OVERHEAD, 8, steps)?;
        }

        /// Long enough that room is made in steps.
        #[test]
        fn long_entries_beside_short_ones(steps in prop::collection::vec(step(40, 4 * STEP * ENTRY_OVERHEAD, 1, 2), 0..100)) {
            check(32 * STEP * ENTRY_OVERHEAD, 1_000, steps)?;
        }
    }
}

mod claims {
    use super::*;

    fn table() -> (Arc<Table>, Instant) {
        (Arc::new(Table::new(bounds(1 << 20, 1_000, 1_000))), Instant::now())
    }

    fn yours(claimed: Claimed) -> Claim {
        match claimed {
            Claimed::Yours(claim) => claim,
            Claimed::Value(_) => panic!("a value"),
            Claimed::Wait(_) => panic!("somebody else's"),
            Claimed::TooMany => panic!("too many"),
        }
    }

    fn ticket(claimed: Claimed) -> Ticket {
        match claimed {
            Claimed::Wait(ticket) => ticket,
            _ => panic!("nothing to wait for"),
        }
    }

    type Waiting = Pin<Box<dyn Future<Output = Waited> + Send>>;

    fn waiting(claimed: Claimed) -> Waiting {
        Box::pin(ticket(claimed).wait())
    }

    fn look(waiting: &mut Waiting) -> Option<Waited> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(waited) => Some(waited),
            Poll::Pending => None,
        }
    }

    fn value_of(waited: Option<Waited>) -> Bytes {
        match waited {
            Some(Waited::Value(value)) => value,
            Some(Waited::Yours(_)) => panic!("the claim"),
            None => panic!("nothing yet"),
        }
    }

    fn claim_of(waited: Option<Waited>) -> Claim {
        match waited {
            Some(Waited::Yours(claim)) => claim,
            Some(Waited::Value(_)) => panic!("a value"),
            None => panic!("nothing yet"),
        }
    }

    #[test]
    fn one_claims_and_the_others_wait_for_the_value() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        let mut others: Vec<_> = (0..3).map(|_| waiting(table.claim("a", now))).collect();
        assert!(others.iter_mut().all(|other| look(other).is_none()));
        assert_eq!(audit(&table), (1, 3));
        set(&table, "a", "made", now);
        for other in &mut others {
            assert_eq!(value_of(look(other)), "made");
        }
        assert!(matches!(table.claim("a", now), Claimed::Value(value) if value == "made"));
        drop((claim, others));
        assert_eq!(audit(&table), (0, 0));
        assert_eq!(table.stats().claims, 0);
    }

    #[test]
    fn keys_do_not_wait_for_one_another() {
        let (table, now) = table();
        let _claims = ["a", "b"].map(|key| yours(table.claim(key, now)));
        let mut other = waiting(table.claim("a", now));
        set(&table, "b", "v", now);
        assert!(look(&mut other).is_none());
    }

    #[test]
    fn whoever_waits_gets_the_value_even_if_it_is_gone_at_once() {
        let (table, now) = table();
        let _claim = yours(table.claim("a", now));
        let mut other = waiting(table.claim("a", now));
        let value = Bytes::from_static(b"short-lived");
        table.set("a", value, Some(Duration::ZERO), now).unwrap();
        table.delete("a", now);
        assert_eq!(value_of(look(&mut other)), "short-lived");
    }

    #[test]
    fn a_value_wakes_whoever_waits_by_whatever_way_it_comes() {
        let (table, now) = table();
        let _claim = yours(table.claim("a", now));
        let mut swap = waiting(table.claim("a", now));
        let value = Bytes::from_static(b"swapped");
        assert!(
            !table
                .compare_and_swap("a", Some(b"no"), value.clone(), None, now)
                .unwrap()
        );
        assert!(look(&mut swap).is_none());
        assert!(table.compare_and_swap("a", None, value, None, now).unwrap());
        assert_eq!(value_of(look(&mut swap)), "swapped");
        table.delete("a", now);
        let mut add = waiting(table.claim("a", now));
        table.add("a", 1, None, now).unwrap();
        assert_eq!(value_of(look(&mut add)), 1_i64.to_le_bytes()[..]);
    }

    #[test]
    fn what_is_refused_wakes_nobody() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        let mut other = waiting(table.claim("a", now));
        assert!(table.set("a", vec![0; 1 << 20].into(), None, now).is_err());
        assert!(look(&mut other).is_none());
        drop(claim);
        claim_of(look(&mut other));
    }

    #[test]
    fn a_claim_that_is_given_up_passes_to_the_one_who_waited_longest() {
        let (table, now) = table();
        let mut claim = yours(table.claim("a", now));
        let mut others: Vec<_> = (0..100).map(|_| waiting(table.claim("a", now))).collect();
        while !others.is_empty() {
            drop(claim);
            let mut first = others.remove(0);
            assert!(others.iter_mut().all(|other| look(other).is_none()), "a second claim");
            claim = claim_of(look(&mut first));
        }
        assert_eq!(table.stats().claims, 1);
        drop(claim);
        yours(table.claim("a", now));
        assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
    }

    #[test]
    fn a_claim_lasts_until_it_is_dropped_even_when_the_value_is_gone() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        set(&table, "a", "v", now);
        table.delete("a", now);
        let mut other = waiting(table.claim("a", now));
        assert!(look(&mut other).is_none());
        drop(claim);
        claim_of(look(&mut other));
    }

    #[test]
    fn whoever_leaves_leaves_nothing() {
        let (table, now) = table();
        let _claim = yours(table.claim("a", now));
        for count in 0..10_000 {
            let mut other = waiting(table.claim("a", now));
            if count % 2 == 0 {
                assert!(look(&mut other).is_none());
            }
        }
        assert_eq!((audit(&table), table.stats().claims), ((1, 0), 1));
    }

    #[test]
    fn a_claim_on_its_way_to_one_who_leaves_passes_on() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        let [first, second] = [(); 2].map(|()| waiting(table.claim("a", now)));
        let mut third = waiting(table.claim("a", now));
        drop(claim);
        // It has the claim and does not know yet.
        drop(first);
        assert!(look(&mut third).is_none());
        drop(second);
        drop(claim_of(look(&mut third)));
        assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
    }

    #[test]
    fn the_last_who_leaves_with_an_unread_claim_frees_the_key() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        let other = waiting(table.claim("a", now));
        drop(claim);
        drop(other);
        assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
        yours(table.claim("a", now));
    }

    #[test]
    fn claims_and_tickets_are_bounded_together() {
        let (table, now) = (Arc::new(Table::new(bounds(1 << 20, 100, 3))), Instant::now());
        let claim = yours(table.claim("a", now));
        let other = ticket(table.claim("a", now));
        let second = yours(table.claim("b", now));
        for key in ["a", "b", "c"] {
            assert!(matches!(table.claim(key, now), Claimed::TooMany));
        }
        assert_eq!(table.stats().claims, 3);
        drop(other);
        drop(ticket(table.claim("b", now)));
        drop((claim, second));
        assert_eq!(table.stats().claims, 0);
        set(&table, "v", "value", now);
        let _claims = ["a", "b", "c"].map(|key| yours(table.claim(key, now)));
        assert!(
            matches!(table.claim("v", now), Claimed::Value(_)),
            "a value needs no claim"
        );
    }

    #[test]
    fn the_keys_of_claims_are_bounded() {
        let (table, now) = (Arc::new(Table::new(bounds(8_000, 100, 1_000))), Instant::now());
        let key = |count: usize| format!("{count:0400}");
        let first = yours(table.claim(&key(1), now));
        let _second = yours(table.claim(&key(2), now));
        assert!(matches!(table.claim(&key(3), now), Claimed::TooMany));
        let _short = yours(table.claim("short", now));
        drop(ticket(table.claim(&key(1), now)));
        drop(first);
        yours(table.claim(&key(3), now));
        assert!(matches!(table.claim(&"k".repeat(1_001), now), Claimed::TooMany));
        audit(&table);
    }

    #[test]
    fn futures_and_guards_can_be_sent() {
        fn is_send<T: Send>(_: &T) {}
        fn is_sync<T: Sync>(_: &T) {}
        let (table, now) = table();
        is_send(&table);
        is_sync(&table);
        is_send(&yours(table.claim("a", now)));
        let _claim = table.claim("a", now);
        let waiting = ticket(table.claim("a", now)).wait();
        is_send(&waiting);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_tired_of_waiting_goes_and_the_others_go_on() {
        let (table, now) = table();
        let claim = yours(table.claim("a", now));
        let tired = tokio::time::timeout(seconds(1), ticket(table.claim("a", now)).wait());
        let patient = tokio::spawn(ticket(table.claim("a", now)).wait());
        assert!(tired.await.is_err());
        drop(claim);
        let Ok(Waited::Yours(_claim)) = patient.await else {
            panic!("the patient one got no claim");
        };
    }

    /// A hundred miss at once: one computes, and the others get what it made.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_hundred_misses_make_one_computation() {
        let (table, now) = table();
        let computations = Arc::new(AtomicUsize::new(0));
        let exchange = |table: Arc<Table>, computations: Arc<AtomicUsize>| async move {
            match table.claim("answer", now) {
                Claimed::Value(value) => value,
                Claimed::Wait(ticket) => match ticket.wait().await {
                    Waited::Value(value) => value,
                    Waited::Yours(_) => panic!("nobody gave up"),
                },
                Claimed::Yours(_claim) => {
                    computations.fetch_add(1, Ordering::SeqCst);
                    while table.stats().claims < 100 {
                        tokio::task::yield_now().await;
                    }
                    set(&table, "answer", "42", now);
                    Bytes::from_static(b"42")
                }
                Claimed::TooMany => panic!("too many"),
            }
        };
        let exchanges: Vec<_> = (0..100)
            .map(|_| tokio::spawn(exchange(Arc::clone(&table), Arc::clone(&computations))))
            .collect();
        for exchange in exchanges {
            assert_eq!(exchange.await.unwrap(), "42");
        }
        assert_eq!(computations.load(Ordering::SeqCst), 1);
        assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
    }

    const KEYS: [&str; 3] = ["a", "b", "c"];

    /// Makes the value, or gives up, depending on `choice`; `makers` counts those who do.
    async fn make(table: &Table, makers: &AtomicUsize, key: &str, choice: u64, claim: Claim) {
        assert_eq!(makers.fetch_add(1, Ordering::SeqCst), 0, "two claimants");
        for _ in 0..choice % 4 {
            tokio::task::yield_now().await;
        }
        if choice.is_multiple_of(3) {
            set(table, key, "v", Instant::now());
        }
        makers.fetch_sub(1, Ordering::SeqCst);
        drop(claim);
    }

    async fn come_and_go(table: Arc<Table>, makers: Arc<[AtomicUsize; KEYS.len()]>, mut seed: u64) {
        for _ in 0..1_000 {
            let choice = random(&mut seed);
            let at = random(&mut seed) as usize % KEYS.len();
            let (key, makers) = (KEYS[at], &makers[at]);
            match table.claim(key, Instant::now()) {
                Claimed::Yours(claim) => make(&table, makers, key, choice, claim).await,
                Claimed::Wait(ticket) if choice.is_multiple_of(5) => drop(ticket),
                Claimed::Wait(ticket) => {
                    let patience = async {
                        for _ in 0..choice % 50 {
                            tokio::task::yield_now().await;
                        }
                    };
                    let waited = tokio::select! {
                        waited = ticket.wait() => Some(waited),
                        () = patience => None,
                    };
                    if let Some(Waited::Yours(claim)) = waited {
                        make(&table, makers, key, choice, claim).await;
                    }
                }
                Claimed::Value(_) => drop(table.delete(key, Instant::now())),
                Claimed::TooMany => panic!("too many"),
            }
        }
    }

    /// Claimants that give up, waiters that leave, values that are deleted again, in four threads: never two claimants
    /// of one key, and nothing left behind.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn there_are_never_two_claimants() {
        let (table, _) = table();
        let makers = Arc::new([const { AtomicUsize::new(0) }; KEYS.len()]);
        let tasks = (0..16).map(|seed| tokio::spawn(come_and_go(Arc::clone(&table), Arc::clone(&makers), seed)));
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Claim,
        GiveUp,
        Set,
        Delete,
        /// Of those who wait, or did not look yet, the one at this index modulo their number.
        Look(usize),
        Leave(usize),
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Place {
        Waits,
        HasClaim,
        HasValue(u8),
    }

    proptest! {
        /// One key, against a queue of places. `held` is the claim that somebody knows to have.
        #[test]
        fn every_order_of_events_has_one_claimant(steps in prop::collection::vec(prop_oneof![
            6 => Just(Step::Claim),
            3 => Just(Step::GiveUp),
            1 => Just(Step::Set),
            2 => Just(Step::Delete),
            3 => any::<usize>().prop_map(Step::Look),
            2 => any::<usize>().prop_map(Step::Leave),
        ], 0..120)) {
            let (table, now) = table();
            let mut held: Option<Claim> = None;
            let mut value: Option<u8> = None;
            let mut places: Vec<(Place, Waiting)> = Vec::new();
            let pass_on = |places: &mut Vec<(Place, Waiting)>| {
                let first = places.iter_mut().find(|(place, _)| *place == Place::Waits);
                if let Some((place, _)) = first {
                    *place = Place::HasClaim;
                }
            };
            for (number, step) in steps.into_iter().enumerate() {
                let number = number as u8;
                match step {
                    Step::Claim => {
                        let flying = held.is_some() || places.iter().any(|(place, _)| *place == Place::HasClaim);
                        match table.claim("a", now) {
                            Claimed::Value(found) => prop_assert_eq!(Some(found[0]), value),
                            Claimed::Yours(claim) => {
                                prop_assert!(value.is_none() && !flying);
                                held = Some(claim);
                            }
                            Claimed::Wait(ticket) => {
                                prop_assert!(value.is_none() && flying);
                                places.push((Place::Waits, Box::pin(ticket.wait())));
                            }
                            Claimed::TooMany => prop_assert!(false, "too many"),
                        }
                    }
                    Step::GiveUp => if held.take().is_some() {
                        pass_on(&mut places);
                    },
                    Step::Set => {
                        table.set("a", vec![number].into(), None, now).unwrap();
                        value = Some(number);
                        for (place, _) in places.iter_mut().filter(|(place, _)| *place == Place::Waits) {
                            *place = Place::HasValue(number);
                        }
                    }
                    Step::Delete => {
                        prop_assert_eq!(table.delete("a", now), value.is_some());
                        value = None;
                    }
                    Step::Look(index) if !places.is_empty() => {
                        let index = index % places.len();
                        let (place, waiting) = &mut places[index];
                        match (look(waiting), *place) {
                            (None, Place::Waits) => (),
                            (Some(Waited::Value(found)), Place::HasValue(expected)) => {
                                prop_assert_eq!(found[0], expected);
                                drop(places.remove(index));
                            }
                            (Some(Waited::Yours(claim)), Place::HasClaim) => {
                                prop_assert!(held.is_none());
                                held = Some(claim);
                                drop(places.remove(index));
                            }
                            (_, expected) => prop_assert!(false, "not {:?}", expected),
                        }
                    }
                    Step::Leave(index) if !places.is_empty() => {
                        let (place, waiting) = places.remove(index % places.len());
                        drop(waiting);
                        if place == Place::HasClaim {
                            pass_on(&mut places);
                        }
                    }
                    Step::Look(_) | Step::Leave(_) => (),
                }
                let waits = places.iter().filter(|(place, _)| *place == Place::Waits).count();
                let claims = usize::from(held.is_some())
                    + places.iter().filter(|(place, _)| *place == Place::HasClaim).count();
                prop_assert!(claims <= 1 && (waits == 0 || claims == 1));
                prop_assert_eq!(audit(&table), (claims, waits));
            }
            drop((held, places));
            prop_assert_eq!((audit(&table), table.stats().claims), ((0, 0), 0));
        }
    }
}

mod many_threads {
    use super::*;

    fn crowd(table: &Table, rounds: usize, work: impl Fn(u64, &mut u64) + Sync) {
        thread::scope(|scope| {
            for number in 0..4 {
                let work = &work;
                scope.spawn(move || {
                    let mut seed = number;
                    (0..rounds).for_each(|_| work(number, &mut seed));
                });
            }
        });
        audit(table);
    }

    #[test]
    fn counters_lose_nothing() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        crowd(&table, 5_000, |number, _| {
            table.add(&(number % 2).to_string(), 1, None, now).unwrap();
        });
        for key in ["0", "1"] {
            assert_eq!(table.add(key, 0, None, now).unwrap(), 10_000);
        }
    }

    #[test]
    fn swaps_lose_nothing() {
        let (table, now) = (Table::new(Bounds::default()), Instant::now());
        crowd(&table, 5_000, |_, _| {
            loop {
                let before = table.get("n", now);
                let count = before
                    .as_ref()
                    .map_or(0, |value| u32::from_le_bytes(value[..].try_into().unwrap()));
                let after = Bytes::copy_from_slice(&(count + 1).to_le_bytes());
                if table
                    .compare_and_swap("n", before.as_deref(), after, None, now)
                    .unwrap()
                {
                    break;
                }
            }
        });
        assert_eq!(table.get("n", now).unwrap(), 20_000_u32.to_le_bytes()[..]);
    }

    /// Every other value is so long that others get their turn while room is made for it.
    #[test]
    fn long_swaps_lose_nothing() {
        let (table, now) = (Table::new(bounds(1 << 20, 1 << 20, 1)), Instant::now());
        crowd(&table, 200, |_, seed| {
            for _ in 0..100 {
                set(&table, &random(seed).to_string(), "what makes room", now);
            }
            loop {
                let before = table.get("n", now);
                let count = before
                    .as_ref()
                    .map_or(0, |value| u64::from_le_bytes(value[..8].try_into().unwrap()));
                let mut after = vec![
                    0;
                    if count.is_multiple_of(2) {
                        8
                    } else {
                        3 * STEP * ENTRY_OVERHEAD
                    }
                ];
                after[..8].copy_from_slice(&(count + 1).to_le_bytes());
                if table
                    .compare_and_swap("n", before.as_deref(), after.into(), None, now)
                    .unwrap()
                {
                    break;
                }
            }
        });
        assert_eq!(table.get("n", now).unwrap()[..8], 800_u64.to_le_bytes());
        assert!(table.stats().evictions > 1_000);
    }

    #[test]
    fn the_bounds_hold_at_every_moment_also_while_they_change() {
        let large = bounds(4 << 20, 1 << 16, 8);
        let small = bounds(1 << 20, 1 << 12, 4);
        let (table, start) = (Table::new(large), Instant::now());
        crowd(&table, 5_000, |number, seed| {
            let choice = random(seed);
            let now = start + Duration::from_millis(choice % 1_000);
            let key = (random(seed) % 3_000).to_string();
            let length = if choice.is_multiple_of(64) {
                100_000
            } else {
                choice as usize % 600
            };
            let ttl = choice.is_multiple_of(2).then_some(Duration::from_millis(choice % 700));
            match choice % 8 {
                0 => drop(table.get(&key, now)),
                1 => drop(table.delete(&key, now)),
                2 => drop(table.add(&key, 1, ttl, now)),
                _ => drop(table.set(&key, vec![0; length].into(), ttl, now)),
            }
            if number == 0 && choice.is_multiple_of(512) {
                table.resize(small, now);
                assert!(table.stats().bytes <= small.bytes);
                table.resize(large, now);
            }
            assert!(table.stats().bytes <= large.bytes);
        });
    }
}

mod by_name {
    use super::*;

    fn own(name: &str) -> TableName {
        TableName::Own(name.to_owned())
    }

    #[test]
    fn a_table_lives_while_it_is_held() {
        let (tables, now) = (Tables::default(), Instant::now());
        let first = tables.open(&own("f"), Bounds::default());
        set(&first, "a", "kept", now);
        let second = tables.open(&own("f"), Bounds::default());
        drop(first);
        assert_eq!(second.get("a", now).unwrap(), "kept");
        drop(second);
        assert!(tables.stats().is_empty());
        assert_eq!(tables.open(&own("f"), Bounds::default()).get("a", now), None);
    }

    #[test]
    fn a_claim_or_a_ticket_keeps_the_table_alive() {
        let (tables, now) = (Tables::default(), Instant::now());
        let table = tables.open(&own("f"), Bounds::default());
        let claim = table.claim("a", now);
        let ticket = table.claim("a", now);
        drop((table, claim));
        assert_eq!(
            tables.stats()[0].1.claims,
            2,
            "the unread claim and the place of the one who has it"
        );
        drop(ticket);
        assert!(tables.stats().is_empty());
    }

    #[test]
    fn a_name_of_its_own_is_not_a_shared_one() {
        let tables = Tables::default();
        let shared = TableName::Shared("f".to_owned());
        let opened = [own("f"), own("g"), shared].map(|name| (tables.open(&name, Bounds::default()), name));
        set(&opened[0].0, "a", "v", Instant::now());
        let keys: Vec<_> = tables
            .stats()
            .into_iter()
            .map(|(name, stats)| (name, stats.keys))
            .collect();
        let expected = [1, 0, 0];
        assert_eq!(
            keys,
            opened
                .map(|(_, name)| name)
                .into_iter()
                .zip(expected)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn opening_changes_no_table_that_is_in_use() {
        let tables = Tables::default();
        let table = tables.open(&own("f"), room_for(3));
        let again = tables.open(&own("f"), room_for(1));
        assert!(Arc::ptr_eq(&table, &again));
        assert_eq!(again.bounds(), room_for(3));
    }

    #[test]
    fn dead_names_are_forgotten() {
        let tables = Tables::default();
        for count in 0..1_000 {
            tables.open(&own(&count.to_string()), Bounds::default());
        }
        assert!(tables.names() <= 1);
    }
}
