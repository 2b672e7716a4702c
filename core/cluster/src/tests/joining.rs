//! Who comes into the cluster with a token.

use expect_test::expect;

use super::script::check;

#[test]
fn a_join_token_lets_one_in_once() {
    check(
        "token j1 secret=a
         version 4
         token j1 secret=a
         token j1 secret=a
         token j1 secret=b
         join j1 a1 secret=b key=x
         join j2 a1 secret=a key=x
         join j1 1 member secret=a key=x
         join j1 a1 secret=a key=x
         join j1 a1 secret=a key=x
         join j1 a1 secret=a key=y
         join j1 a2 secret=a key=x
         token m1 member secret=c
         join m1 a1 secret=c key=x
         revoke m1
         join m1 2 member secret=c key=x
         revoke m2
         token j3 secret=d until=21
         join j3 a3 secret=d key=x
         join j3 a3 secret=d key=x
         join j3 a3 secret=d key=x",
        expect![[r#"
            token: cluster-version-too-old: The request was not carried out: it needs cluster version 4, and the cluster is at 1. Upgrade every member and raise the version.
            token: invalid-argument: The join token was not made: there is one of the id `j1` already. Make another.
            join: join-token-refused: The agent `a1` did not join: the token is not known here; make another with `muster token create agent`.
            join: join-token-refused: The agent `a1` did not join: the token is not known here; make another with `muster token create agent`.
            join: join-token-refused: The member `1` did not join: the token is for an agent; make another with `muster token create member`.
            join: join-token-refused: The agent `a1` did not join: agent `a1` has used the token already; make another with `muster token create agent`.
            join: join-token-refused: The agent `a2` did not join: agent `a1` has used the token already; make another with `muster token create agent`.
            join: join-token-refused: The agent `a1` did not join: the token is for a member; make another with `muster token create agent`.
            join: join-token-refused: The member `2` did not join: the token was revoked; make another with `muster token create member`.
            revoke: join-token-refused: Join token `m2` was not revoked: there is none of this id. See `muster token list`.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
        "#]],
    );
}

#[test]
fn a_join_token_ends_by_the_clusters_time_whatever_the_wall_clocks_say() {
    check(
        "version 6
         token j1 secret=a until=1 life=100
         version 7
         token j1 secret=a until=1 life=3
         join j1 a1 secret=a key=x
         token j2 secret=b until=1000 life=2
         join j2 a2 secret=b key=x
         join j2 a2 secret=b key=x
         token j3 secret=c until=1000 life=1
         join j3 a3 secret=c key=x",
        expect![[r#"
            token: cluster-version-too-old: The request was not carried out: it needs cluster version 7, and the cluster is at 6. Upgrade every member and raise the version.
            join: join-token-refused: The agent `a2` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
            join: join-token-refused: The agent `a3` did not join: the token has expired; make another with `muster token create agent`, and use it before its end.
        "#]],
    );
}

#[test]
fn an_id_that_is_there_needs_a_token_of_its_own() {
    check(
        "version 4
         agent a1
         token j1 secret=a
         join j1 a1 secret=a key=x
         token j2 secret=b only=a1
         join j2 a2 secret=b key=x
         join j2 a1 secret=b key=x",
        expect![[r#"
            agent: AgentRegistered { epoch: 1 }
            join: join-token-refused: The agent `a1` did not join: an agent of this id is there already; make a token for it with `muster token create agent --only-for a1`, or give this one a data directory of its own.
            join: join-token-refused: The agent `a2` did not join: the token is for `a1` alone; make another with `muster token create agent`.
        "#]],
    );
}
