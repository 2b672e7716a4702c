//! The loop with a log in memory: streams end when they should, and nothing waits for who doesn't read.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster::{AgentFacts, Answer, ClusterState, Entry, FrameworkInfo};
use model::{
    AgentId, ClusterId, OfferId, Reason, Refusal, RefusalCode, RequestId, Resources, RoleName, TaskId,
    TaskSpec, TaskState, TaskStatus, Timestamp,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Applied, Config, Feed, LeaderHandle, LeaderLoop, Log, ProposeError, Standing, feed,
    messages::{
        Attachment, Caller, FromAgent, Hello, Known, OutputChunk, OutputRequest, OutputStream,
        SubscribeParams, Subscription, ToAgent, ToFramework,
    },
};

/// One patience for all tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// Applies at once, unless it is told to keep silent.
#[derive(Clone)]
struct Memory(Arc<Mutex<Applying>>);

struct Applying {
    state: ClusterState,
    index: u64,
    feed: Feed,
    is_silent: bool,
}

impl Log for Memory {
    fn propose(
        &self,
        entry: Entry,
    ) -> impl Future<Output = Result<Result<Answer, Refusal>, ProposeError>> + Send + 'static {
        let this = self.clone();
        async move {
            let answer = {
                let mut inner = this.0.lock().unwrap();
                if inner.is_silent {
                    None
                } else {
                    inner.index += 1;
                    let index = inner.index;
                    let outcome = cluster::apply(&mut inner.state, index, &entry);
                    let state = inner.state.clone();
                    inner.feed.publish(Applied { index, changes: outcome.changes, state });
                    Some(outcome.answer)
                }
            };
            match answer {
                Some(answer) => Ok(answer),
                None => std::future::pending().await,
            }
        }
    }
}

struct World {
    handle: LeaderHandle,
    standing: watch::Sender<Standing>,
    log: Memory,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let (feed, reader) = feed(0, ClusterState::new());
        let log = Memory(Arc::new(Mutex::new(Applying {
            state: ClusterState::new(),
            index: 0,
            feed,
            is_silent: false,
        })));
        let (standing, standing_reader) = watch::channel(Standing::Leads { term: 1 });
        let stop = CancellationToken::new();
        let config = Config::new(ClusterId::new("c1").unwrap());
        let (actor, handle) = LeaderLoop::new(config, log.clone(), reader, standing_reader, stop.clone());
        let task = tokio::spawn(actor.run());
        Self { handle, standing, log, stop, task }
    }

    /// A call may come before the cluster is made; then it is asked again, as a client would.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let ask = async {
            loop {
                match call().await {
                    Ok(answer) => return answer,
                    Err(refusal) if matches!(refusal.code, RefusalCode::Busy | RefusalCode::NoLeader) => {
                        tokio::task::yield_now().await;
                    }
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, ask).await.unwrap()
    }

    async fn subscribe(&self) -> Subscription {
        let params = SubscribeParams {
            info: FrameworkInfo {
                name: "f".to_owned(),
                role: RoleName::new("default").unwrap(),
                failover_timeout: Duration::from_secs(3600),
            },
            framework: None,
            cursor: None,
            request: None,
        };
        self.patiently(|| self.handle.subscribe(params.clone())).await
    }

    async fn attach(&self, agent: &str) -> Attachment {
        let hello = Hello {
            agent: AgentId::new(agent).unwrap(),
            cluster: None,
            facts: AgentFacts {
                hostname: agent.to_owned(),
                boot_id: "b".to_owned(),
                address: String::new(),
                version: String::new(),
                total: Resources { cpus_milli: 4000, mem_mib: 1024, ..Resources::default() },
                attributes: Default::default(),
                limitations: Vec::new(),
            },
            tasks: Known::All(Vec::new()),
        };
        let wait = async {
            loop {
                let mut attachment = self.patiently(|| self.handle.attach_agent(hello.clone())).await;
                match attachment.messages.recv().await.unwrap() {
                    ToAgent::Welcome { .. } => return attachment,
                    // The cluster is not made yet.
                    ToAgent::Refused { is_final: false, .. } => tokio::task::yield_now().await,
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }
}

async fn next<T>(messages: &mut tokio::sync::mpsc::Receiver<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap()
}

/// Skips to the next offers.
async fn offers(subscription: &mut Subscription) -> Vec<OfferId> {
    loop {
        if let ToFramework::Offers(offers) = next(&mut subscription.events).await.unwrap() {
            return offers.into_iter().map(|offer| offer.offer).collect();
        }
    }
}

fn caller(subscription: &Subscription) -> Caller {
    Caller {
        framework: subscription.framework.clone(),
        subscription: subscription.subscription.clone(),
        request: None,
    }
}

fn task(id: &str) -> TaskSpec {
    TaskSpec {
        name: id.to_owned(),
        ..TaskSpec::new(
            TaskId::new(id).unwrap(),
            Resources { cpus_milli: 1000, mem_mib: 64, ..Resources::default() },
            vec!["true".to_owned()],
        )
    }
}

#[tokio::test]
async fn a_task_goes_from_offer_to_its_end() {
    let world = World::new();
    let mut agent = world.attach("a1").await;
    let mut framework = world.subscribe().await;
    assert!(matches!(next(&mut framework.events).await, Some(ToFramework::Subscribed { .. })));
    let offers = offers(&mut framework).await;
    let who = caller(&framework);
    let results = world.handle.accept(who.clone(), offers, vec![task("t1")], Duration::ZERO).await.unwrap();
    assert_eq!(results, [(TaskId::new("t1").unwrap(), None)]);
    let Some(ToAgent::Launch(assignments)) = next(&mut agent.messages).await else { panic!("no launch") };
    let status = TaskStatus {
        task_id: assignments[0].spec.task_id.clone(),
        framework_id: assignments[0].framework.clone(),
        agent_id: None,
        state: TaskState::Finished,
        reason: Reason::None,
        message: String::new(),
        exit: None,
        at: Timestamp(1),
        sequence: 1,
        is_released: true,
        usage: None,
        health: None,
    };
    world.handle.agent_said(agent.session, FromAgent::Updates(vec![status])).await.unwrap();
    assert!(matches!(next(&mut agent.messages).await, Some(ToAgent::Acknowledge(_))));
    loop {
        match next(&mut framework.events).await.unwrap() {
            ToFramework::Durable { cursor, .. } => {
                world.handle.acknowledge(who, cursor).await.unwrap();
                break;
            }
            ToFramework::Offers(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let changed = world.handle.changed();
    world
        .until("the acknowledgement is in the log", || {
            world.handle.state().framework(&framework.framework).unwrap().events.is_empty()
        })
        .await;
    assert_eq!(*changed.borrow(), world.handle.state().applied());
    let figures = world.handle.figures();
    assert_eq!((figures.counts.tasks_launched, figures.sessions_open, figures.subscriptions_open), (1, 1, 1));
    world.end().await;
}

#[tokio::test]
async fn run_waits_says_why_and_starts() {
    let world = World::new();
    let request = RequestId::new("r1").unwrap();
    world.patiently(|| world.handle.run(request.clone(), vec![task("t1")])).await;
    let soft = world.handle.soft().await.unwrap();
    assert_eq!(soft.waiting_because.values().flatten().collect::<Vec<_>>(), ["no agent answers now"]);
    let mut agent = world.attach("a1").await;
    assert!(matches!(next(&mut agent.messages).await, Some(ToAgent::Launch(_))));
    let read = OutputRequest {
        task: TaskId::new("t1").unwrap(),
        stream: OutputStream::Stderr,
        offset: 0,
        tail: None,
        newer_than: None,
        process: None,
        limit: 10,
        wait: Duration::from_secs(1),
    };
    let reading = {
        let handle = world.handle.clone();
        tokio::spawn(async move { handle.read_output(read).await })
    };
    let Some(ToAgent::ReadOutput { request, output }) = next(&mut agent.messages).await else {
        panic!("no read")
    };
    assert_eq!(output.stream, OutputStream::Stderr);
    let chunk = OutputChunk { offset: 0, data: b"hi".to_vec(), is_end: true };
    let answer = FromAgent::Output { request, result: Ok(chunk.clone()) };
    world.handle.agent_said(agent.session, answer).await.unwrap();
    assert_eq!(reading.await.unwrap(), Ok(chunk));
    world.handle.kill_task(RequestId::new("r2").unwrap(), TaskId::new("t1").unwrap(), None).await.unwrap();
    assert!(matches!(next(&mut agent.messages).await, Some(ToAgent::Kill { .. })));
    world.end().await;
}

#[tokio::test]
async fn dropped_streams_are_noticed() {
    let world = World::new();
    let agent = world.attach("a1").await;
    let framework = world.subscribe().await;
    let id = framework.framework.clone();
    drop(framework);
    drop(agent);
    world
        .until("the framework is disconnected", || {
            let state = world.handle.state();
            matches!(state.framework(&id).unwrap().state, cluster::FrameworkState::Disconnected { .. })
        })
        .await;
    world.until("the session is closed", || world.handle.figures().sessions_open == 0).await;
    world.end().await;
}

#[tokio::test]
async fn a_framework_that_does_not_read_is_disconnected_and_blocks_nobody() {
    let world = World::new();
    let agent = world.attach("a1").await;
    let slow = world.subscribe().await;
    let who = caller(&slow);
    // Each round leaves an offer in the slow framework's stream.
    let flood = async {
        loop {
            let Ok(soft) = world.handle.soft().await else { break };
            let offers: Vec<_> = soft.offers.into_iter().map(|offer| offer.offer).collect();
            if world.handle.decline(who.clone(), offers, Duration::ZERO).await.is_err() {
                break;
            }
            world.handle.agent_said(agent.session, FromAgent::Heartbeat).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE * 3, flood).await.unwrap();
    assert_eq!(world.handle.figures().streams_too_slow_total, 1);
    assert_eq!(world.handle.figures().sessions_open, 1);
    world.end().await;
}

#[tokio::test]
async fn who_waits_when_the_leadership_ends_is_told() {
    let world = World::new();
    let mut agent = world.attach("a1").await;
    let mut framework = world.subscribe().await;
    let offers = offers(&mut framework).await;
    world.log.0.lock().unwrap().is_silent = true;
    let accepting = {
        let (handle, who) = (world.handle.clone(), caller(&framework));
        tokio::spawn(async move { handle.accept(who, offers, vec![task("t1")], Duration::ZERO).await })
    };
    world.until("the accept is in flight", || world.handle.figures().proposals_in_flight == 1).await;
    world.standing.send_replace(Standing::Follows);
    assert_eq!(accepting.await.unwrap().unwrap_err().code, RefusalCode::OutcomeUnknown);
    let ended = async {
        loop {
            match next(&mut framework.events).await {
                Some(ToFramework::Ended(refusal)) => assert_eq!(refusal.code, RefusalCode::NoLeader),
                Some(_) => {}
                None => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    assert!(matches!(next(&mut agent.messages).await, Some(ToAgent::Refused { is_final: false, .. })));
    assert_eq!(next(&mut agent.messages).await, None);
    assert_eq!(world.handle.soft().await.unwrap_err().code, RefusalCode::NoLeader);
    // What an old session says is heard by nobody.
    world.handle.agent_said(agent.session, FromAgent::Heartbeat).await.unwrap();

    world.log.0.lock().unwrap().is_silent = false;
    world.standing.send_replace(Standing::Leads { term: 2 });
    world.attach("a1").await;
    assert_eq!(world.handle.soft().await.unwrap().term, 2);
    world.end().await;
}
