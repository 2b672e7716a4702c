//! The life of an offer.

use super::check;
use expect_test::expect;

#[test]
fn an_offer_is_made_accepted_and_its_rest_declined() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=9,mem=64 t3:cpus=1,mem=64
         wait 4s a1
         wait 2s a1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 t2:cpus=9,mem=64 t3:cpus=1,mem=64
              f1 = launched [t1 launched, t2 exceeds-offer, t3 launched]
              a1#1 < launch [t1 after 0, t3 after 0]
            > wait 4s a1
            > wait 2s a1
              f1#1 < offers [1-2 of a1 cpus=2 mem=896MiB]
        "#]],
    );
}

#[test]
fn an_offer_ends_with_its_lease() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         wait 29s a1
         wait 2s a1
         accept f1 1-1 t1:cpus=1,mem=64
         wait 5s a1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > wait 29s a1
            > wait 2s a1
              f1#1 < rescind 1-1: its lease is over
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: its lease is over; wait for new offers
            > wait 5s a1
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn an_accept_names_only_good_offers() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         agent a2 cpus=2 mem=512
         subscribe f2
         demand f1
         agent a3 cpus=1 mem=64
         accept f2 1-1 t1:cpus=1,mem=64
         accept f1 none t1:cpus=1,mem=64
         accept f1 1-1,1-1 t1:cpus=1,mem=64
         accept f1 1-1,1-2 t1:cpus=1,mem=64
         accept f1 1-99 t1:cpus=1,mem=64
         accept f1 7-1 t1:cpus=1,mem=64
         accept f1 1-1 t1:cpus=1,mem=64 as=f9#1
         accept nobody 1-1 t1:cpus=1,mem=64
         accept run 1-1 t1:cpus=1,mem=64
         decline f2 1-1
         accept f1 1-1 t1:cpus=1,mem=64
         accept f1 1-1 t2:cpus=1,mem=64",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > agent a2 cpus=2 mem=512
              a2#1 < welcome 1 []
              f1#1 < offers [1-2 of a2 cpus=2 mem=512MiB]
            > subscribe f2
              f2#1 < subscribed
            > demand f1
              f1 = done
            > agent a3 cpus=1 mem=64
              a3#1 < welcome 1 []
              f2#1 < offers [1-3 of a3 cpus=1 mem=64MiB]
            > accept f2 1-1 t1:cpus=1,mem=64
              f2 = offer-not-yours: can't use offer `1-1`: it was made to another framework; use your own offers
            > accept f1 none t1:cpus=1,mem=64
              f1 = invalid-argument: can't accept: no offer is named; name at least one
            > accept f1 1-1,1-1 t1:cpus=1,mem=64
              f1 = invalid-argument: can't accept: offer `1-1` is named twice; name each offer once
            > accept f1 1-1,1-2 t1:cpus=1,mem=64
              f1 = offers-mixed: can't accept: offer `1-2` is of agent `a2` and role `default`, the others of agent `a1` and role `default`; accept the offers of each agent by themselves
            > accept f1 1-99 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-99`: there is no such offer; wait for new offers
            > accept f1 7-1 t1:cpus=1,mem=64
              f1 = no-leader: can't use offer `7-1`: a later leader made it; connect again to reach that one
            > accept f1 1-1 t1:cpus=1,mem=64 as=f9#1
              f1 = subscription-replaced: subscription `nobody` of framework `c1-1.1` is over: it was lost, or another instance subscribed; subscribe again
            > accept nobody 1-1 t1:cpus=1,mem=64
              nobody = framework-unknown: no framework has the id `nobody`; subscribe without an id to become a new one
            > accept run 1-1 t1:cpus=1,mem=64
              run = framework-built-in: framework `run` is built in; only the coordinator speaks for it
            > decline f2 1-1
              f2 = offer-not-yours: can't decline offer `1-1`: it was made to another framework
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
              f2#1 < offers [1-4 of a1 cpus=3 mem=960MiB]
            > accept f1 1-1 t2:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: it was accepted already; wait for new offers
        "#]],
    );
}

#[test]
fn an_offer_can_be_used_once_and_a_repeat_gets_the_first_answer() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         accept f1 1-1 t1:cpus=1,mem=64 request=r1
         accept f1 1-1 t2:cpus=1,mem=64 request=r2
         accept f1 1-1 t1:cpus=1,mem=64 request=r1
         commit
         accept f1 1-1 t1:cpus=1,mem=64 request=r1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
            > accept f1 1-1 t2:cpus=1,mem=64 request=r2
              f1 = offer-unknown: can't use offer `1-1`: it was accepted already; wait for new offers
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
            > commit
              f1 = launched [t1 launched]
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
              f1 = launched [t1 launched]
        "#]],
    );
}

#[test]
fn an_agent_that_is_lost_takes_its_offers_along() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         gone a1
         accept f1 1-1 t1:cpus=1,mem=64
         agent a1 cpus=4 mem=1024",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > gone a1
              a1#1 closed
              f1#1 < rescind 1-1: the agent's session ended
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: it was rescinded: the agent's session ended; wait for new offers
            > agent a1 cpus=4 mem=1024
              a1#2 < welcome 2 []
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn an_accept_that_meets_a_new_epoch_is_refused_by_the_log() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         agent a1 cpus=4 mem=1024
         accept f1 1-1 t1:cpus=1,mem=64
         commit",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > agent a1 cpus=4 mem=1024
              a1#1 < refused epoch-stale: agent `a1` opened a newer session, so this one ends
              a1#1 closed
              f1#1 < rescind 1-1: the agent's session ended
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: it was rescinded: the agent's session ended; wait for new offers
            > commit
              a1#2 < welcome 2 []
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn declined_resources_come_back_when_the_filter_ends_or_more_is_free() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         accept f1 1-1 t1:cpus=1,mem=64 refuse=100s
         wait 10s a1
         say a1 t1:finished:1:released
         decline f1 1-2 refuse=3s
         wait 4s a1
         decline f1 1-3 refuse=100s
         revive f1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 refuse=100s
              f1 = launched [t1 launched]
              a1#1 < launch [t1 after 0]
            > wait 10s a1
            > say a1 t1:finished:1:released
              a1#1 < acknowledge [t1 1]
              f1#1 < 6.0 t1 finished #1 released
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
            > decline f1 1-2 refuse=3s
              f1 = done
            > wait 4s a1
              f1#1 < offers [1-3 of a1 cpus=4 mem=1024MiB]
            > decline f1 1-3 refuse=100s
              f1 = done
            > revive f1
              f1 = done
              f1#1 < offers [1-4 of a1 cpus=4 mem=1024MiB]
        "#]],
    );
}

#[test]
fn demand_bounds_what_is_offered_and_is_used_up_by_launches() {
    check(
        "agent a1 cpus=8 mem=1024
         subscribe f1
         suppress f1
         decline f1 1-1
         wait 10s a1
         demand f1 3xcpus=1,mem=64
         accept f1 1-2 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=0s
         accept f1 1-3 t3:cpus=1,mem=64
         wait 10s a1
         demand f1 1xcpus=2,mem=64",
        expect![[r#"
            > agent a1 cpus=8 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=8 mem=1024MiB]
            > suppress f1
              f1 = done
            > decline f1 1-1
              f1 = done
            > wait 10s a1
            > demand f1 3xcpus=1,mem=64
              f1 = done
              f1#1 < offers [1-2 of a1 cpus=3 mem=192MiB]
            > accept f1 1-2 t1:cpus=1,mem=64 t2:cpus=1,mem=64 refuse=0s
              f1 = launched [t1 launched, t2 launched]
              a1#1 < launch [t1 after 0, t2 after 0]
              f1#1 < offers [1-3 of a1 cpus=1 mem=64MiB]
            > accept f1 1-3 t3:cpus=1,mem=64
              f1 = launched [t3 launched]
              a1#1 < launch [t3 after 0]
            > wait 10s a1
            > demand f1 1xcpus=2,mem=64
              f1 = done
              f1#1 < offers [1-4 of a1 cpus=2 mem=64MiB]
        "#]],
    );
}

#[test]
fn when_the_fate_of_an_accept_is_unknown_the_framework_is_told_so() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         accept f1 1-1 t1:cpus=1,mem=64 request=r1
         elect
         commit
         accept f1 1-1 t1:cpus=1,mem=64 request=r1
         subscribe f1
         agent a1 cpus=4 mem=1024
         accept f1 1-1 t1:cpus=1,mem=64
         accept f1 2-1 t1:cpus=1,mem=64 request=r1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
            > elect
              f1 = outcome-unknown: whether it was done is not known, because the leadership was lost meanwhile; repeat with the same request id
              f1#1 < ended: no-leader
              f1#1 closed
              a1#1 < refused no-leader: this member doesn't lead any more; connect again to reach the new leader
              a1#1 closed
            > commit
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
              f1 = subscription-replaced: subscription `1-2` of framework `c1-1.1` is over: it was lost, or another instance subscribed; subscribe again
            > subscribe f1
              f1#2 < subscribed
            > agent a1 cpus=4 mem=1024
              a1#2 < welcome 2 []
              f1#2 < offers [2-1 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64
              f1 = offer-unknown: can't use offer `1-1`: it was made by an earlier leader; wait for new offers
            > accept f1 2-1 t1:cpus=1,mem=64 request=r1
              f1 = launched [t1 launched]
              a1#2 < launch [t1 after 0]
        "#]],
    );
}

#[test]
fn an_accept_whose_fate_is_unknown_is_not_refused_when_it_comes_again() {
    check(
        "agent a1 cpus=4 mem=1024
         subscribe f1
         hold
         accept f1 1-1 t1:cpus=1,mem=64 request=r1
         unknown
         accept f1 1-1 t1:cpus=1,mem=64 request=r1",
        expect![[r#"
            > agent a1 cpus=4 mem=1024
              a1#1 < welcome 1 []
            > subscribe f1
              f1#1 < subscribed
              f1#1 < offers [1-1 of a1 cpus=4 mem=1024MiB]
            > hold
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
            > unknown
              f1 = outcome-unknown: whether it was done is not known, because the leadership was lost meanwhile; repeat with the same request id
              f1#1 < offers [1-2 of a1 cpus=4 mem=1024MiB]
            > accept f1 1-1 t1:cpus=1,mem=64 request=r1
              f1 = outcome-unknown: whether it was done is not known, because the leadership was lost meanwhile; repeat with the same request id
        "#]],
    );
}
