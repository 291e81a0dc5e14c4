//! Who is told: programs, webhooks, mails.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::BackendState,
    events::{Event, Kind},
};
use lb_tests::{
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    mail::{self, MailServer},
    nginx::{HTTPS, Nginx},
    receiver::{Posted, Receiver},
    topo::{Node, Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    events::Follower,
    setup::{HelloLab, PORT, SERVICE, backend_is, events, service},
};

const CHECKS: &str = "checks: [{tcp: , interval: 300ms, timeout: 5s, fall: 2, rise: 1}]";

/// The hello service with checks and more keys.
fn checked(lab: &Lab, more: &str) -> Service {
    let mut service = service(VIP4, lab.net.backends.iter().map(|b| b.ipv4()));
    service.more = format!("{CHECKS}, {more}");
    service
}

/// Starts with this `notify`.
fn start<'lab>(lab: &'lab Lab, service: Service, notify: &str) -> Result<HelloLab<'lab>> {
    let config = Config::on_eth0("lab", vec![service]);
    let hello = HelloLab::prepare(lab, &config)?;
    hello.agent.write_config(&format!("{}notify: {notify}\n", config.to_yaml(&hello.agent.socket())))?;
    hello.agent.start()?;
    for n in 1..=lab.net.backends.len() {
        backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Up)?;
    }
    Ok(hello)
}

/// A directory that anybody may write to.
fn open_dir(lab: &Lab) -> Result<PathBuf> {
    let dir = lab.scope.dir().join("told");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// A program that writes who it is, its arguments and its environment into a file named by its first argument and
/// process id, whole when it has its name.
fn script(lab: &Lab, dir: &Path) -> Result<PathBuf> {
    let path = lab.scope.dir().join("tell.sh");
    let text = format!(
        "#!/bin/sh\nout={}/$1.$$\n{{ id -un; id -Gn; echo \"$@\"; pwd; tr '\\0' '\\n' < /proc/$$/environ | sort; }} > \
         $out.new\nmv $out.new $out.txt\n",
        dir.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// What programs with this first argument have written.
fn told(dir: &Path, word: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(&format!("{word}.")) && name.ends_with(".txt") {
            texts.push(fs::read_to_string(&path)?);
        }
    }
    Ok(texts)
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    eventually(PATIENCE, what, || Ok(look()?.map_or_else(|| Seen::NotYet("nothing".to_owned()), Seen::Yes)))
}

#[test]
fn programs_run_as_nobody_with_an_exact_environment() {
    Lab::test(Topology::one_segment(2), |lab| {
        let dir = open_dir(lab)?;
        let script = script(lab, &dir)?.display().to_string();
        let hooks = format!(
            "quorum: 2, notify_up: [{script}, up], notify_down: [{script}, down, \"two words\"], quorum_up: [{script}, \
             qup], quorum_down: [{script}, qdown]"
        );
        let notify = format!("{{router_id: edge-1, program: [{script}, all], events: [backend-down]}}");
        let mut hello = start(lab, checked(lab, &hooks), &notify)?;
        wait_for("both came up", || Ok((told(&dir, "up")?.len() == 2).then_some(())))?;
        ensure!(told(&dir, "all")?.is_empty() && told(&dir, "down")?.is_empty(), "nobody went");

        drop(hello.servers.remove(0));
        let down = wait_for("notify_down", || Ok(told(&dir, "down")?.pop()))?;
        let all = wait_for("the global program", || Ok(told(&dir, "all")?.pop()))?;
        let quorum = wait_for("quorum_down", || Ok(told(&dir, "qdown")?.pop()))?;
        let events = events(&hello.agent)?;
        let event = events.iter().find(|it| it.what.kind == Kind::BackendDown).context("it went")?;
        let (key, address) = (hello.key(1), hello.address(1));
        let wanted = format!(
            "nobody\nnogroup\ndown two words\n/\n\
             LB_ADDRESS={address}\nLB_BACKEND={key}\nLB_EVENT=backend-down\nLB_INSTANCE=lab\nLB_PORT={PORT}\n\
             LB_REASON={reason}\nLB_ROUTER_ID=edge-1\nLB_SEQ={seq}\nLB_SERVICE={SERVICE}\n\
             LB_TEXT=backend is down: {reason}\nLB_TIME={time}\nLB_TIMEOUT_MS=10000\n\
             PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
            reason = event.what.reason,
            seq = event.seq,
            time = event.time,
        );
        ensure!(down == wanted, "{down}\nwanted:\n{wanted}");
        ensure!(all == wanted.replace("down two words", "all"), "{all}");
        ensure!(
            quorum.contains("\nLB_EVENT=quorum-down\n") && quorum.contains("\nLB_BACKEND=\n"),
            "{quorum}"
        );

        hello.servers.push(Hello::start(&lab.net.backends[0], PORT)?);
        wait_for("quorum_up", || Ok(told(&dir, "qup")?.pop()))?;
        wait_for("notify_up", || Ok((told(&dir, "up")?.len() == 3).then_some(())))?;
        ensure!(told(&dir, "all")?.len() == 1, "the global program gets what it asked for");

        // root only if it is asked for.
        let text = fs::read_to_string(hello.agent.config_path())?;
        hello.agent.write_config(&text.replace("router_id: edge-1", "script_user: root"))?;
        hello.agent.lb(&["reload"])?.ok()?;
        drop(hello.servers.pop());
        let as_root = wait_for("root's", || {
            Ok(told(&dir, "down")?.into_iter().find(|text| text.starts_with("root\n")))
        })?;
        ensure!(as_root.contains("\nLB_EVENT=backend-down\n"), "{as_root}");
        Ok(())
    });
}

#[test]
fn a_changed_weight_is_told_with_what_it_was_and_is() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (dir, weights) = (open_dir(lab)?, lab.scope.dir().join("weights"));
        let script = script(lab, &dir)?.display().to_string();
        let (address, key) = (lab.net.backends[0].ipv4(), format!("{}:{PORT}", lab.net.backends[0].ipv4()));
        fs::create_dir(&weights)?;
        fs::write(weights.join(&key), "10")?;
        let more = format!(
            "checks: [{{file: {{path: {}}}, interval: 200ms, timeout: 5s, rise: 1}}]",
            weights.display()
        );
        let service = Service { more, ..service(VIP4, [address]) };
        let notify = format!("{{router_id: edge-1, program: [{script}, weight], events: [weight]}}");
        let hello = start(lab, service, &notify)?;
        for (before, after) in [(10, 4), (4, 0), (0, 10)] {
            fs::write(weights.join(&key), after.to_string())?;
            let told = wait_for("the program", || {
                let line = format!("\nLB_WEIGHT={after}\n");
                Ok(told(&dir, "weight")?.into_iter().find(|text| text.contains(&line)))
            })?;
            let events = events(&hello.agent)?;
            let is = |event: &&Event| event.what.weight == Some((before, after));
            let event = events.iter().find(is).with_context(|| format!("{events:?}"))?;
            let wanted = format!(
                "nobody\nnogroup\nweight\n/\n\
                 LB_ADDRESS={address}\nLB_BACKEND={key}\nLB_EVENT=weight\nLB_INSTANCE=lab\nLB_PORT={PORT}\n\
                 LB_REASON={reason}\nLB_ROUTER_ID=edge-1\nLB_SEQ={seq}\nLB_SERVICE={SERVICE}\n\
                 LB_TEXT=backend has another weight, {after} instead of {before}: {reason}\nLB_TIME={time}\n\
                 LB_TIMEOUT_MS=10000\nLB_WEIGHT={after}\nLB_WEIGHT_BEFORE={before}\n\
                 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
                reason = event.what.reason,
                seq = event.seq,
                time = event.time,
            );
            ensure!(told == wanted, "{told}\nwanted:\n{wanted}");
        }
        ensure!(told(&dir, "weight")?.len() == 3, "nothing else is asked for");
        Ok(())
    });
}

#[test]
fn a_program_that_hangs_is_killed_with_its_group_and_holds_nobody_up() {
    Lab::test(Topology::one_segment(2), |lab| {
        let dir = open_dir(lab)?;
        let pids = dir.join("pids");
        fs::write(&pids, "")?;
        fs::set_permissions(&pids, fs::Permissions::from_mode(0o666))?;
        let hangs = format!("sleep 1000 & echo $! >> {}; wait", pids.display());
        let hooks = format!("notify_down: [/bin/sh, -c, \"{hangs}\"], notify_up: [/no/such/program]");
        // Time enough for the shell to say who its child is, also if the machine stands still for a while.
        let mut hello = start(lab, checked(lab, &hooks), "{script_timeout: 5s}")?;
        let follower = Follower::start(lab, &hello.agent)?;
        // One for each backend that came up.
        let mut last = 0;
        for _ in 1..=2 {
            let missing = follower.sees(last, Kind::NotifyFailed, None)?;
            ensure!(missing.what.reason.contains("/no/such/program cannot be run"), "{missing:?}");
            last = missing.seq;
        }
        drop(hello.servers.remove(0));
        let down = follower.sees(0, Kind::BackendDown, Some(&hello.key(1)))?;
        // The agent does its work meanwhile.
        hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(2)])?.ok()?;
        let killed = follower.sees(down.seq, Kind::NotifyFailed, None)?;
        ensure!(killed.what.reason.contains("did not end within 5s, and was killed"), "{killed:?}");
        ensure!(killed.what.reason.contains(&format!("for event {}", down.seq)), "{killed:?}");
        let sleeper = fs::read_to_string(&pids)?;
        let sleeper = sleeper.trim();
        ensure!(!sleeper.is_empty(), "it has run");
        wait_for("its child to end", || {
            let status = fs::read_to_string(format!("/proc/{sleeper}/status")).unwrap_or_default();
            Ok((status.is_empty() || status.contains("State:\tZ")).then_some(()))
        })
    });
}

fn header<'a>(posted: &'a Posted, name: &str) -> Option<&'a str> {
    posted.headers.iter().find_map(|line| line.strip_prefix(name))
}

#[test]
fn webhooks_get_batches_with_their_secret_and_are_tried_again() {
    Lab::test(Topology::one_segment(6), |lab| {
        let receiver = Receiver::start(lab.net.client(), &[503])?;
        let secret = lab.scope.dir().join("secret");
        fs::write(&secret, "Bearer s3cret-of-the-lab\n")?;
        let notify = format!(
            "{{router_id: edge-1, delay: 1500ms, interval: 2s, events: [backend-down, agent-stop], webhooks: [{{url: \
             \"http://{}/hook?key=hidden\", secret_file: {}}}]}}",
            receiver.at,
            secret.display()
        );
        let mut hello = start(lab, checked(lab, "quorum: 1"), &notify)?;
        hello.servers.clear();
        // The batch may go while some have not been seen to be down.
        for n in 1..=6 {
            backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Down)?;
        }
        let posts = wait_for("the batch, tried twice", || {
            let posts = receiver.posts();
            Ok((posts.len() >= 2).then_some(posts))
        })?;
        ensure!((posts[0].answered, posts[1].answered) == (503, 204), "{posts:#?}");
        ensure!(posts[0].body == posts[1].body, "the same again: {posts:#?}");
        let Posted { line, body, .. } = &posts[1];
        ensure!(line == "POST /hook?key=hidden HTTP/1.1", "{line}");
        ensure!(header(&posts[1], "authorization: ") == Some("Bearer s3cret-of-the-lab"), "{posts:#?}");
        ensure!(header(&posts[1], "content-type: ") == Some("application/json"), "{posts:#?}");
        ensure!(body["router_id"] == "edge-1" && body["instance"] == "lab" && body["lost"] == 0, "{body:#}");

        // Whatever is told together: each of the six once.
        hello.agent.terminate()?;
        let posts = receiver.posts();
        let taken = posts.iter().filter(|posted| posted.answered == 204);
        let events = taken.flat_map(|posted| posted.body["events"].as_array().cloned().unwrap_or_default());
        let events: Vec<Event> = events.map(serde_json::from_value).collect::<Result<_, _>>()?;
        let mut down: Vec<_> = events.iter().filter(|it| it.what.kind == Kind::BackendDown).collect();
        down.sort_by_key(|event| event.what.backend);
        down.dedup_by_key(|event| event.what.backend);
        ensure!(down.len() == 6 && events.len() == 7, "{events:#?}");
        ensure!(
            events.last().is_some_and(|it| it.what.kind == Kind::AgentStop),
            "the last words: {events:#?}"
        );
        let log = hello.agent.log();
        ensure!(log.contains("webhook at") && log.contains("status 503"), "{log}");
        ensure!(!log.contains("s3cret") && !log.contains("hidden"), "a secret is in the log: {log}");
        Ok(())
    });
}

#[test]
fn webhooks_over_tls_are_verified_and_losses_are_counted() {
    Lab::test(Topology::one_segment(1), |lab| {
        let nginx = Nginx::start(&lab.scope, lab.net.client())?;
        let at = lab.net.client().ipv4();
        let receiver = Receiver::start(lab.net.client(), &[400])?;
        let notify = format!(
            "{{delay: 100ms, interval: 200ms, events: [backend-up, change], webhooks: [{{url: \
             \"https://{at}:{HTTPS}/\", retries: 0, ca: {}}}, {{url: \"https://{at}:{HTTPS}/health\", verify: false}}, \
             {{url: \"http://{}/\"}}]}}",
            nginx.ca.display(),
            receiver.at
        );
        let hello = start(lab, checked(lab, "quorum: 1"), &notify)?;
        let follower = Follower::start(lab, &hello.agent)?;
        let failed = |words: &str| {
            wait_for(words, || {
                let events = follower.events()?;
                let failed = events.iter().filter(|event| event.what.kind == Kind::NotifyFailed);
                Ok(failed.map(|it| it.what.reason.clone()).find(|reason| reason.contains(words)))
            })
        };
        // The certificate is for another name than this address.
        let tls = failed("TLS")?;
        ensure!(tls.contains("1 events are lost"), "{tls}");
        // Not verified, the post is made: nginx takes none for a file, for good.
        failed("status 405")?;
        failed("status 400")?;
        hello.agent.lb(&["timeout", "set", "--udp", "200"])?.ok()?;
        let posted = wait_for("the next post", || Ok(receiver.posts().get(1).cloned()))?;
        ensure!(posted.body["lost"] == 1 && posted.body["count"] == 1, "{posted:#?}");
        ensure!(posted.body["events"][0]["kind"] == "change", "{posted:#?}");
        Ok(())
    });
}

/// Takes connections, as far as the other end can see, and says nothing: the kernel takes them.
fn silent(node: &Node) -> Result<TcpListener> {
    let listener = node.netns.enter(|| TcpListener::bind((node.ipv4(), 0)))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until somebody has connected.
fn called(silent: &TcpListener) -> Result<TcpStream> {
    wait_for("a connection to who is silent", || Ok(silent.accept().ok().map(|(stream, _)| stream)))
}

#[test]
fn who_hangs_keeps_nobody_else_from_being_told() {
    Lab::test(Topology::one_segment(1), |lab| {
        let client = lab.net.client();
        let (mail, web, receiver) = (silent(client)?, silent(client)?, Receiver::start(client, &[])?);
        let notify = format!(
            "{{delay: 100ms, interval: 200ms, events: [agent-start, change], notification_email: [ops@example.net], \
             notification_email_from: lb@example.net, smtp_server: \"{}\", smtp_tls: off, smtp_connect_timeout: 1m, \
             webhooks: [{{url: \"http://{}/\", timeout: 1m, retries: 0}}, {{url: \"http://{}/\"}}]}}",
            mail.local_addr()?,
            web.local_addr()?,
            receiver.at
        );
        let hello = start(lab, checked(lab, "quorum: 1"), &notify)?;
        let mut held = vec![called(&mail)?, called(&web)?];
        let is_told = |kind: &str, times: usize| {
            wait_for(kind, || {
                let told = receiver.posts().into_iter().flat_map(|it| it.body["events"].as_array().cloned());
                let of_kind = told.flatten().filter(|event| event["kind"] == kind).count();
                Ok((of_kind >= times).then_some(()))
            })
        };
        is_told("agent-start", 1)?;
        // The agent does its work, and the others hear of it.
        hello.agent.lb(&["timeout", "set", "--udp", "200"])?.ok()?;
        is_told("change", 1)?;
        let failed = |it: &Event| it.what.kind == Kind::NotifyFailed;
        ensure!(!events(&hello.agent)?.iter().any(failed), "they are waited for as long as they may take");
        hello.agent.terminate()?;

        let limit = Duration::from_millis(700);
        let text = fs::read_to_string(hello.agent.config_path())?;
        hello.agent.write_config(&text.replace("timeout: 1m", "timeout: 700ms"))?;
        hello.agent.start()?;
        held.extend([called(&mail)?, called(&web)?]);
        let (start, lost) = wait_for("the post that is given up", || {
            let events = events(&hello.agent)?;
            let start = events.iter().rfind(|it| it.what.kind == Kind::AgentStart).cloned();
            Ok(start.zip(events.into_iter().find(failed)))
        })?;
        let reason = &lost.what.reason;
        ensure!(reason.ends_with(" events are lost: no answer in time"), "{reason}");
        ensure!(lost.time.duration_since(start.time) >= limit.try_into()?, "{start:?} {lost:?}");
        // A mail is tried again.
        held.push(called(&mail)?);
        let log = hello.agent.log();
        ensure!(log.contains("the server takes too long; trying again in 1 s"), "{log}");
        is_told("agent-start", 2)?;
        hello.agent.lb(&["timeout", "set", "--udp", "300"])?.ok()?;
        is_told("change", 2)
    });
}

/// At least, between two mails.
const INTERVAL: Duration = Duration::from_secs(4);

/// In the line of an event.
const DOWN: &str = ": backend is down: tcp";
const UP: &str = ": backend is up: tcp";

/// In how many lines of these mails it is. Long ones are broken up on their way (quoted-printable).
fn lines(mails: &[String], what: &str) -> usize {
    mails.iter().map(|mail| mail.replace("=\r\n", "").matches(what).count()).sum()
}

#[test]
fn mails_go_through_starttls_and_login_in_batches() {
    Lab::test(Topology::one_segment(6), |lab| {
        let server = MailServer::start(&lab.scope, lab.net.client())?;
        let password = lab.scope.dir().join("password");
        fs::write(&password, format!("{}\n", mail::PASSWORD))?;
        let notify = format!(
            "{{router_id: edge-1, delay: 3s, interval: {}s, events: [backend-down, backend-up], notification_email: \
             [ops@example.net, boss@example.net], notification_email_from: lb@example.net, smtp_server: \"{}:{}\", \
             smtp_helo_name: edge-1.lab, smtp_ca: {}, smtp_user: {}, smtp_password_file: {}}}",
            INTERVAL.as_secs(),
            lab.net.client().ipv4(),
            mail::PORT,
            server.ca.display(),
            mail::USER,
            password.display()
        );
        let mut hello = start(lab, checked(lab, "quorum: 1"), &notify)?;
        wait_for("the mail of the start", || Ok((server.mails()?.len() == 1).then_some(())))?;
        hello.servers.clear();
        for n in 1..=6 {
            backend_is(&hello.agent, SERVICE, &hello.key(n), BackendState::Down)?;
        }
        // One mail, as a rule. An agent that ends has little time for what it has not told by then.
        wait_for("all to be told", || Ok((lines(&server.mails()?, DOWN) >= 6).then_some(())))?;
        let times = wait_for("all events", || {
            let asked = |it: &Event| matches!(it.what.kind, Kind::BackendDown | Kind::BackendUp);
            let times: Vec<_> = events(&hello.agent)?.into_iter().filter(asked).map(|it| it.time).collect();
            Ok((times.len() >= 12).then_some(times))
        })?;
        hello.agent.terminate()?;
        let mails = server.mails()?;
        let head = "X-Sink: from=lb@example.net to=ops@example.net,boss@example.net tls=True login=lb helo=edge-1.lab";
        ensure!(mails.iter().all(|mail| mail.lines().next() == Some(head)), "{mails:#?}");
        ensure!(lines(&mails, DOWN) == 6 && lines(&mails, UP) == 6, "{mails:#?}");
        // Each but the first begins with an event that came after the mail before had gone, and those that were due went
        // the interval apart; the first waited for longer than an event takes from its time to the batch.
        let first = times.iter().min().context("an event")?;
        let last = times.iter().max().context("an event")?;
        let most = 2 + last.duration_since(*first).as_millis() / INTERVAL.as_millis() as i128;
        ensure!(mails.len() as i128 <= most, "{} mails, not {most}: {mails:#?}", mails.len());
        let subject =
            |mail: &String| mail.lines().find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned));
        let subjects: Vec<_> = mails.iter().filter_map(subject).collect();
        ensure!(
            subjects.len() == mails.len() && subjects.iter().all(|it| it.starts_with("[edge-1] ")),
            "{subjects:?}"
        );
        ensure!(!hello.agent.log().contains(mail::PASSWORD), "the password is in the log");

        // A wrong password is no reason to try again for ever, and is said.
        fs::write(&password, "wrong\n")?;
        hello.agent.start()?;
        let follower = Follower::start(lab, &hello.agent)?;
        hello.servers.push(Hello::start(&lab.net.backends[0], PORT)?);
        let failed = follower.sees(0, Kind::NotifyFailed, None)?;
        ensure!(
            failed.what.reason.contains("events are lost") && failed.what.reason.contains("535"),
            "{failed:?}"
        );
        ensure!(!failed.what.reason.contains("wrong"), "{failed:?}");

        // No mail, and no password, to a server whose certificate nobody vouches for.
        fs::write(&password, mail::PASSWORD)?;
        let text = fs::read_to_string(hello.agent.config_path())?;
        hello.agent.write_config(&text.replace(&format!("smtp_ca: {},", server.ca.display()), ""))?;
        hello.agent.lb(&["reload"])?.ok()?;
        let before = server.mails()?.len();
        hello.servers.clear();
        wait_for("the refused certificate", || {
            Ok(hello.agent.log().contains("invalid peer certificate").then_some(()))
        })?;
        ensure!(server.mails()?.len() == before, "{:#?}", server.mails()?);
        Ok(())
    });
}
