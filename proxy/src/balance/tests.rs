//! The choice among endpoints: turns, weights, priorities, hashes, as tables and as properties.

use super::*;
use crate::address::Address;
use crate::endpoint::{Epoch, Health};
use proptest::prelude::*;

const SOUND: f64 = 0.5;

fn rules(balancing: Balancing) -> Rules {
    Rules {
        balancing,
        slow_start: None,
        panic_threshold: SOUND,
    }
}

fn member(number: usize, weight: u32, priority: u32) -> Member {
    let address = Address::Tcp(([10, 0, (number >> 8) as u8, number as u8], 80).into());
    Member {
        endpoint: Arc::new(Endpoint::new(address, None, Arc::<Epoch>::default(), 1)),
        weight,
        priority,
    }
}

fn weighing(weights: &[u32]) -> Vec<Member> {
    let members = weights.iter().enumerate();
    members.map(|(number, weight)| member(number, *weight, 0)).collect()
}

fn lineup(list: Vec<Member>, balancing: Balancing) -> Lineup {
    let members = Arc::new(Members::new(list, balancing));
    Lineup::new(members, rules(balancing), None, Instant::now())
}

fn set(member: &Member, health: Health) {
    member.endpoint.set_health(health, Instant::now());
}

/// Uniform enough.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn picks(lineup: &Lineup, count: usize) -> Vec<usize> {
    let mut random = random(7);
    let pick = |_| lineup.pick(None, &[], |_| 0, &mut random).unwrap();
    (0..count).map(pick).collect()
}

fn count(picks: &[usize], members: usize) -> Vec<usize> {
    let of = |member| picks.iter().filter(|picked| **picked == member).count();
    (0..members).map(of).collect()
}

fn owner(lineup: &Lineup, key: u64) -> usize {
    // Keys are hashes.
    let key = twox_hash::XxHash3_64::oneshot(&key.to_le_bytes());
    lineup.pick(Some(key), &[], |_| 0, || 0).unwrap()
}

const ALL: [Balancing; 5] = [
    Balancing::RoundRobin,
    Balancing::LeastRequest,
    Balancing::Random,
    Balancing::RingHash,
    Balancing::Maglev,
];

#[test]
fn equal_endpoints_take_turns() {
    assert_eq!(
        picks(&lineup(weighing(&[1, 1, 1]), Balancing::RoundRobin), 6),
        [0, 1, 2, 0, 1, 2]
    );
}

#[test]
fn weights_take_turns_smoothly() {
    assert_eq!(
        picks(&lineup(weighing(&[5, 1, 1]), Balancing::RoundRobin), 7),
        [0, 0, 1, 0, 2, 0, 0]
    );
}

#[test]
fn an_endpoint_that_was_tried_is_avoided() {
    for balancing in ALL {
        let list = weighing(&[1, 5, 1]);
        let ids: Vec<u64> = list.iter().map(|member| member.endpoint.id()).collect();
        let lineup = lineup(list, balancing);
        for key in 0..50 {
            let mut random = random(key);
            let mut pick = |tried: &[u64]| lineup.pick(Some(key << 50), tried, |_| 0, &mut random);
            assert!(pick(&ids[1..2]).is_some_and(|member| member != 1), "{balancing:?}");
            assert_eq!(pick(&ids[..2]), Some(2), "{balancing:?}");
            assert_eq!(pick(&ids), None, "{balancing:?}");
        }
    }
}

#[test]
fn without_endpoints_there_is_no_choice() {
    for balancing in ALL {
        for weights in [&[][..], &[0, 0]] {
            let lineup = lineup(weighing(weights), balancing);
            assert_eq!(
                lineup.pick(Some(1), &[], |_| 0, || 7),
                None,
                "{balancing:?} {weights:?}"
            );
        }
    }
}

#[test]
fn the_less_busy_of_two_is_taken() {
    let lineup = lineup(weighing(&[1, 1]), Balancing::LeastRequest);
    let picked = |loads: [u32; 2]| lineup.pick(None, &[], |member| loads[member], random(3));
    assert_eq!((picked([9, 1]), picked([1, 9])), (Some(1), Some(0)));
}

#[test]
fn a_weight_counts_against_the_load() {
    let lineup = lineup(weighing(&[3, 1]), Balancing::LeastRequest);
    let share = |loads: [u32; 2]| {
        let mut random = random(5);
        let picks = (0..1000).filter_map(|_| lineup.pick(None, &[], |member| loads[member], &mut random));
        count(&picks.collect::<Vec<_>>(), 2)[0]
    };
    // Unless both draws fall on the same one, the less burdened is taken.
    assert!((900..970).contains(&share([2, 1])), "{}", share([2, 1]));
    assert!((530..600).contains(&share([4, 1])), "{}", share([4, 1]));
    // Where there is nothing to do, shares are those of the weights.
    assert!((700..800).contains(&share([0, 0])), "{}", share([0, 0]));
}

#[test]
fn drawn_by_weight() {
    let drawn = count(&picks(&lineup(weighing(&[1, 2, 1]), Balancing::Random), 4000), 3);
    assert!(
        (900..1100).contains(&drawn[0]) && (1900..2100).contains(&drawn[1]),
        "{drawn:?}"
    );
    let drawn = count(&picks(&lineup(weighing(&[7, 7]), Balancing::Random), 2000), 2);
    assert!((900..1100).contains(&drawn[0]), "{drawn:?}");
}

#[test]
fn an_endpoint_without_weight_takes_nothing_new_but_can_be_asked_for() {
    for balancing in ALL {
        let lineup = lineup(weighing(&[1, 0, 1]), balancing);
        for key in 0..100 {
            let picked = lineup.pick(Some(key << 50), &[], |_| 0, random(key));
            assert_ne!(picked, Some(1), "{balancing:?}");
        }
        assert!(lineup.is_usable(1));
    }
}

#[test]
fn what_is_not_usable_takes_nothing_while_enough_are() {
    for balancing in ALL {
        let list = weighing(&[1, 1, 1, 1]);
        set(&list[0], Health::Unhealthy);
        list[2].endpoint.set_ejected(true, Instant::now());
        let lineup = lineup(list, balancing);
        for key in 0..200 {
            let picked = lineup.pick(Some(key << 50), &[], |_| 0, random(key)).unwrap();
            assert!(picked == 1 || picked == 3, "{balancing:?}: {picked}");
        }
        assert!(!lineup.is_usable(0));
    }
}

#[test]
fn when_too_few_are_usable_all_are_used() {
    for balancing in ALL {
        let list = weighing(&[1, 1, 1, 1]);
        list[..3].iter().for_each(|member| set(member, Health::Unhealthy));
        let members = Arc::new(Members::new(list, balancing));
        let view = |panic_threshold| {
            let rules = Rules {
                panic_threshold,
                ..rules(balancing)
            };
            Lineup::new(Arc::clone(&members), rules, None, Instant::now())
        };
        let used = |lineup: &Lineup| -> std::collections::BTreeSet<usize> {
            let mut random = random(9);
            (0..200)
                .filter_map(|key: u64| {
                    lineup.pick(Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &[], |_| 0, &mut random)
                })
                .collect()
        };
        assert_eq!(used(&view(0.5)), [0, 1, 2, 3].into(), "{balancing:?}");
        assert_eq!(used(&view(0.25)), [3].into(), "{balancing:?}");
        assert_eq!(used(&view(0.0)), [3].into(), "{balancing:?}");
        set(&members.list[3], Health::Unhealthy);
        assert_eq!(used(&view(0.5)), [0, 1, 2, 3].into(), "{balancing:?}");
        assert_eq!(used(&view(0.0)), [].into(), "{balancing:?}");
    }
}

#[test]
fn the_next_priority_takes_over_and_gives_back() {
    for balancing in ALL {
        let list = vec![member(0, 1, 0), member(1, 1, 0), member(2, 1, 7), member(3, 1, 7)];
        let members = Arc::new(Members::new(list, balancing));
        let level = |down: &[usize]| {
            for (index, member) in members.list.iter().enumerate() {
                let is_down = down.contains(&index);
                set(member, if is_down { Health::Unhealthy } else { Health::Healthy });
            }
            let lineup = Lineup::new(Arc::clone(&members), rules(balancing), None, Instant::now());
            let mut random = random(1);
            let used: std::collections::BTreeSet<usize> = (0..100_u64)
                .filter_map(|key| lineup.pick(Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &[], |_| 0, &mut random))
                .collect();
            used.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(level(&[]), [0, 1]);
        assert_eq!(level(&[0]), [1], "half is enough");
        assert_eq!(level(&[0, 1]), [2, 3]);
        assert_eq!(level(&[0, 1, 2]), [3]);
        assert_eq!(level(&[0, 1, 2, 3]), [0, 1], "all are down: the preferred ones");
        assert_eq!(level(&[2]), [0, 1]);
    }
}

#[test]
fn turns_go_on_where_they_were() {
    let members = Arc::new(Members::new(weighing(&[5, 1, 1]), Balancing::RoundRobin));
    let rules = rules(Balancing::RoundRobin);
    let mut view = Lineup::new(Arc::clone(&members), rules, None, Instant::now());
    let mut picked = Vec::new();
    for _ in 0..7 {
        picked.extend(picks(&view, 1));
        view = Lineup::new(Arc::clone(&members), rules, Some(&view), Instant::now());
    }
    assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn an_endpoint_that_has_come_is_given_more_and_more() {
    let members = Arc::new(Members::new(weighing(&[1, 1]), Balancing::RoundRobin));
    let start = Instant::now();
    members.list[0].endpoint.set_health(Health::Unhealthy, start);
    // The other one has been there for long.
    let at = |seconds: u64| start + Duration::from_secs(1000 + seconds);
    members.list[0].endpoint.set_health(Health::Healthy, at(0));
    let rules = Rules {
        slow_start: Some(Duration::from_secs(100)),
        ..rules(Balancing::RoundRobin)
    };
    let share = |seconds| {
        let view = Lineup::new(Arc::clone(&members), rules, None, at(seconds));
        (count(&picks(&view, 1100), 2)[0], view.holds_for.is_some())
    };
    assert_eq!(share(0), (100, true));
    assert_eq!(share(10), (100, true));
    assert_eq!(share(50), (367, true));
    assert_eq!(share(100), (550, false));
}

#[test]
fn the_end_of_a_slow_start_leaves_no_debts() {
    let members = Arc::new(Members::new(weighing(&[1, 3]), Balancing::RoundRobin));
    let start = Instant::now();
    members.list[0].endpoint.set_health(Health::Unhealthy, start);
    members.list[0]
        .endpoint
        .set_health(Health::Healthy, start + Duration::from_secs(1000));
    let rules = Rules {
        slow_start: Some(Duration::from_secs(10)),
        ..rules(Balancing::RoundRobin)
    };
    let slow = Lineup::new(Arc::clone(&members), rules, None, start + Duration::from_secs(1005));
    picks(&slow, 37);
    let usual = Lineup::new(
        Arc::clone(&members),
        rules,
        Some(&slow),
        start + Duration::from_secs(1020),
    );
    let shares = count(&picks(&usual, 40), 2);
    assert!((9..=11).contains(&shares[0]), "{shares:?}");
}

/// Of ten thousand keys, those that another endpoint has afterwards.
fn moved(before: &Lineup, after: &Lineup) -> (usize, usize) {
    let label = |lineup: &Lineup, key| lineup.members.list[owner(lineup, key)].endpoint.label.clone();
    let moves = (0..10_000).map(|key| (label(before, key), label(after, key)));
    let moved: Vec<_> = moves.filter(|(before, after)| before != after).collect();
    // Between endpoints that both lineups have.
    let stayed = |name: &String| {
        let has = |lineup: &Lineup| lineup.members.list.iter().any(|member| member.endpoint.label == *name);
        has(before) && has(after)
    };
    let needless = moved
        .iter()
        .filter(|(before, after)| stayed(before) && stayed(after))
        .count();
    (moved.len(), needless)
}

#[test]
fn one_more_endpoint_moves_its_share_of_the_keys_and_hardly_another() {
    for (balancing, most_needless) in [(Balancing::RingHash, 0), (Balancing::Maglev, 300)] {
        let ten = lineup(weighing(&[1; 10]), balancing);
        let eleven = lineup(weighing(&[1; 11]), balancing);
        let (moved, needless) = moved(&ten, &eleven);
        assert!((600..1400).contains(&moved), "{balancing:?}: {moved} moved");
        assert!(needless <= most_needless, "{balancing:?}: {needless} moved for nothing");
    }
}

#[test]
fn an_endpoint_that_fails_moves_its_own_keys_alone_and_gets_them_back() {
    for balancing in [Balancing::RingHash, Balancing::Maglev] {
        let members = Arc::new(Members::new(weighing(&[1; 10]), balancing));
        let view = || Lineup::new(Arc::clone(&members), rules(balancing), None, Instant::now());
        let before = view();
        set(&members.list[4], Health::Unhealthy);
        let during = view();
        set(&members.list[4], Health::Healthy);
        let after = view();
        let mut heirs = std::collections::BTreeSet::new();
        for key in 0..5_000 {
            let (was, is, then) = (owner(&before, key), owner(&during, key), owner(&after, key));
            assert_eq!(was, then, "{balancing:?}");
            match was {
                4 => drop(heirs.insert(is)),
                _ => assert_eq!(was, is, "{balancing:?}"),
            }
        }
        assert_eq!(heirs.len(), 9, "{balancing:?}: all others share the keys");
    }
}

#[test]
fn keys_are_spread_by_weight() {
    for (balancing, tolerance) in [(Balancing::RingHash, 0.35), (Balancing::Maglev, 0.1)] {
        let weights = [1, 1, 2, 4];
        let lineup = lineup(weighing(&weights), balancing);
        let owners: Vec<usize> = (0..20_000).map(|key| owner(&lineup, key)).collect();
        for (share, weight) in count(&owners, 4).into_iter().zip(weights) {
            let due = 20_000.0 * f64::from(weight) / 8.0;
            let off = (share as f64 - due).abs() / due;
            assert!(off < tolerance, "{balancing:?}: {share} for {due}");
        }
    }
}

#[test]
fn the_same_key_has_the_same_owner_in_every_process() {
    for (balancing, expected) in [(Balancing::RingHash, OWNERS_RING), (Balancing::Maglev, OWNERS_MAGLEV)] {
        let lineup = lineup(weighing(&[1; 8]), balancing);
        let owners: Vec<usize> = (0..16).map(|key| owner(&lineup, key)).collect();
        assert_eq!(owners, expected, "{balancing:?}");
    }
}

/// Written down once: a change would move the keys of everybody who upgrades.
const OWNERS_RING: [usize; 16] = [5, 2, 2, 7, 2, 4, 6, 1, 4, 7, 4, 1, 7, 3, 4, 6];
const OWNERS_MAGLEV: [usize; 16] = [2, 2, 1, 7, 1, 3, 7, 5, 7, 3, 7, 0, 1, 0, 6, 6];

#[test]
fn a_thousand_endpoints_are_no_burden() {
    for balancing in ALL {
        let lineup = lineup(weighing(&[1; 1000]), balancing);
        let mut random = random(11);
        let owners: std::collections::HashSet<usize> = (0..20_000_u64)
            .filter_map(|key| lineup.pick(Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &[], |_| 0, &mut random))
            .collect();
        assert!(owners.len() > 990, "{balancing:?}: {}", owners.len());
    }
}

proptest! {
    /// Over a whole round, each endpoint is picked exactly as often as its weight says.
    #[test]
    fn a_round_is_fair(weights in prop::collection::vec(1_u32..20, 1..8)) {
        let round: u32 = weights.iter().sum();
        let lineup = lineup(weighing(&weights), Balancing::RoundRobin);
        let shares = count(&picks(&lineup, round as usize), weights.len());
        let expected: Vec<usize> = weights.iter().map(|weight| *weight as usize).collect();
        prop_assert_eq!(shares, expected);
    }

    /// Whatever is up and whatever was tried, what is picked may be picked, and only nothing when there is nothing.
    #[test]
    fn picks_are_in_bounds_and_none_was_tried(
        weights in prop::collection::vec(0_u32..9, 1..7),
        down in prop::collection::vec(any::<bool>(), 7),
        tried in prop::collection::vec(any::<bool>(), 7),
        kind in 0_usize..5,
        threshold in prop_oneof![Just(0.0), Just(0.5), Just(1.0)],
        seed: u64,
    ) {
        let list = weighing(&weights);
        for (member, down) in list.iter().zip(&down) {
            set(member, if *down { Health::Unhealthy } else { Health::Healthy });
        }
        let ids: Vec<u64> = list.iter().zip(&tried).filter(|(_, tried)| **tried).map(|(it, _)| it.endpoint.id()).collect();
        let members = Arc::new(Members::new(list, ALL[kind]));
        let rules = Rules { panic_threshold: threshold, ..rules(ALL[kind]) };
        let view = Lineup::new(members, rules, None, Instant::now());
        let candidates: Vec<usize> = (0..weights.len()).filter(|index| weights[*index] > 0 && view.usable[*index] && !tried[*index]).collect();
        let picked = view.pick(Some(seed), &ids, |member| (seed >> member) as u32 % 5, random(seed));
        prop_assert_eq!(picked.is_none(), candidates.is_empty());
        prop_assert!(picked.is_none_or(|picked| candidates.contains(&picked)));
    }
}
