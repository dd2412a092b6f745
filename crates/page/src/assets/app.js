// Asks every few seconds what is so, and says it. Text is only ever set as text.
"use strict";

const $ = (id) => document.getElementById(id);
const time = (text) => (text ? Date.parse(text) : null);
const LOOK_EVERY = 5000;
let timeline = null, openRun = null, latest = null;

const span = (seconds) => {
  if (seconds === null || seconds === undefined) return "unknown";
  const s = Math.abs(seconds);
  if (s < 10) return `${Math.round(s * 10) / 10}\u00a0s`;
  if (s < 120) return `${Math.round(s)}\u00a0s`;
  if (s < 3600) return `${Math.round(s / 60)}\u00a0min`;
  if (s < 172800) return `${Math.round(s / 360) / 10}\u00a0h`;
  return `${Math.round(s / 86400)}\u00a0days`;
};
const bytes = (count) => {
  if (count === null || count === undefined) return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let i = 0, value = count;
  while (value >= 1024 && i < units.length - 1) { value /= 1024; i += 1; }
  return `${value >= 100 || i === 0 ? Math.round(value) : Math.round(value * 10) / 10}\u00a0${units[i]}`;
};
const whole = (count) => Math.round(count).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
const stamp = (ms) => { const d = new Date(ms); return `${d.getUTCFullYear()}-${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())} ${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`; };
const short = (ms) => stamp(ms).slice(0, 16);
const ago = (ms, now) => (now >= ms ? `${span((now - ms) / 1000)} ago` : `in ${span((ms - now) / 1000)}`);
const seen = (look) => (look && look.seen !== undefined ? look.seen : null);
const unseen = (look) => (look && look.unseen ? look.unseen : null);
// A setting stays as it is written.
const capital = (text) => (/^\w*_/.test(text) ? text : text.charAt(0).toUpperCase() + text.slice(1));
const many = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" }, credentials: "same-origin" });
  if (answer.status === 401) { location.href = "/login"; throw new Error("log in"); }
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw Object.assign(new Error("trouble"), { said });
  return said;
}

function figure(name, value, note, share, isBad) {
  const bar = share === null || share === undefined ? null : el("div", { class: "bar", "aria-hidden": "true" }, el("i"));
  if (bar) bar.firstChild.style.width = `${Math.max(1, Math.min(100, share * 100))}%`;
  return el("div", { class: `figure${isBad ? " is-bad" : ""}` }, el("div", { class: "name" }, name), el("div", { class: "value" }, value), bar, el("div", { class: "note" }, note));
}

function verdict(now) {
  const words = { protected: "Protected.", warned: "Protected.", unprotected: "Not protected." };
  const critical = now.alarms.filter((alarm) => alarm.urgency === "critical"), warnings = now.alarms.length - critical.length;
  const why = { protected: "Nothing needs to be done.", warned: `${many(warnings, "warning")} below.`, unprotected: capital(critical.map((alarm) => alarm.summary).join("; ")) + "." }[now.verdict];
  const unknown = now.unknown.length ? ` Not judged: ${now.unknown.join(", ")}.` : "";
  $("verdict").className = `verdict ${now.verdict}`;
  set($("verdict-word"), words[now.verdict]);
  set($("verdict-why"), why + unknown);
  document.title = `${now.verdict === "unprotected" ? "Not protected" : "Protected"} · ${now.facts.org} · Bowline`;
}

// What does not change is not written anew: a screen reader would say it again.
function set(node, text) { if (node.textContent !== text) node.textContent = text; }

function figures(now) {
  const { facts } = now, at = time(facts.at), repository = seen(facts.repository), objectives = facts.objectives;
  const restore = repository && repository.restore, drill = repository && repository.drills[0], newest = repository && repository.backups.filter((backup) => backup.is_present && !backup.is_ahead).pop();
  $("figures").replaceChildren(
    figure("Would be lost now (RPO)", span(now.rpo_seconds), `objective ${span(objectives.rpo_seconds)}`, now.rpo_seconds === null ? null : now.rpo_seconds / objectives.rpo_seconds, now.rpo_seconds === null || now.rpo_seconds > objectives.rpo_seconds),
    figure("A restore takes about (RTO)", restore ? span(restore.seconds) : "unknown", restore ? `objective ${span(objectives.rto_seconds)}` : "no drill has measured it yet", restore ? restore.seconds / objectives.rto_seconds : null, restore && restore.seconds > objectives.rto_seconds),
    figure("Newest backup", newest ? ago(time(newest.at), at) : "none", newest ? `${bytes(newest.bytes)} in ${span(newest.took_seconds)}` : "take one: bowline backup", null, !newest),
    figure("Last drill", drill ? (drill.outcome === "passed" ? "passed" : drill.outcome === "failed" ? "failed" : "not verified") : "none", drill ? `${ago(time(drill.at), at)}, ${many(drill.rows, "row")} read` : "hold one: bowline verify", null, !drill || drill.outcome !== "passed"));
}

// When it began, and whether anybody was told.
function told(now, alarm) {
  const known = now.alerts && now.alerts.alerts.find((alert) => alert.rule === alarm.rule && alert.subject === alarm.subject && alert.state !== "resolved");
  if (!known) return null;
  const at = time(now.facts.at), since = `Since ${short(time(known.since))} UTC`;
  if (known.state === "silenced") return el("p", { class: "soft" }, `${since}; silenced: nobody is told.`);
  return el("p", { class: known.told && !known.delivered ? "bad" : "soft" }, `${since}; ${!known.told ? "nobody was told yet" : known.delivered ? `people were told ${ago(time(known.told), at)}` : "no channel took it: NOBODY WAS TOLD"}.`);
}

function channels(now) {
  const view = now.alerts, at = time(now.facts.at);
  $("told").hidden = !view;
  if (!view) return;
  const row = (channel) => el("tr", {}, el("td", {}, channel.name), el("td", { class: "soft" }, channel.kind || ""), el("td", { class: channel.failing_since ? "bad" : null }, channel.failing_since ? `failing since ${short(time(channel.failing_since))}: ${channel.why || ""}` : channel.last_delivered ? `took a message ${ago(time(channel.last_delivered), at)}` : "had nothing to take yet"));
  const over = view.alerts.filter((alert) => alert.state === "resolved").slice(0, 5);
  $("told-body").replaceChildren(
    view.channels.length ? el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["Channel", "Type", "Last"].map((word) => el("th", { scope: "col" }, word)))), el("tbody", {}, ...view.channels.map(row)))) : el("p", { class: "bad" }, "No channel is configured: nobody is told of anything. See [[alerts.channel]]."),
    ...(over.length ? [el("p", { class: "soft" }, "Over: " + over.map((alert) => `${alert.summary} (${short(time(alert.since))} to ${short(time(alert.resolved))})`).join("; ") + ".")] : []));
}

function alarms(now) {
  $("alarms").hidden = now.alarms.length === 0;
  $("alarms-body").replaceChildren(...now.alarms.map((alarm) => el("article", { class: `alarm ${alarm.urgency}` },
    el("h3", {}, capital(alarm.summary), el("span", { class: "tag" }, `${alarm.urgency}, ${alarm.rule}${alarm.subject ? ` ${alarm.subject}` : ""}`)),
    alarm.detail && el("p", { class: "soft" }, alarm.detail), alarm.hint && el("p", { class: "hint" }, alarm.hint), told(now, alarm))));
}

function trouble(look, what) {
  const why = unseen(look);
  return el("p", { class: why ? "bad" : "soft" }, why ? `${what} cannot be looked at: ${why.summary}. ${why.hint}` : `${what}: nothing is known yet.`);
}

function recovery(now) {
  const { facts } = now, at = time(facts.at), repository = seen(facts.repository);
  if (!repository) return $("timeline").replaceChildren(trouble(facts.repository, "The repository"));
  const window = repository.window;
  const first = Math.min(at - DAY, ...repository.backups.map((backup) => time(backup.at)));
  const until = window && window.until ? time(window.until) : null;
  const hole = repository.stored?.hole;
  const but = repository.gaps.length ? `, but not ${many(repository.gaps.length, "gap")}` : hole ? `, but nothing that needs segment ${hole}, which is missing` : "";
  const alone = repository.backups.filter((backup) => !backup.reaches_on).length;
  set($("window-words"), window ? `Any instant from ${short(time(window.from))}${until ? ` to ${stamp(until)}` : " on"} UTC${but}${alone ? `, and ${many(alone, "older backup")} at ${alone === 1 ? "its own end" : "their own ends"}` : ""}.` : "Nothing yet: there is no backup of the present cluster.");
  const gaps = repository.gaps.map((gap) => ({ from: time(gap.from) ?? first, until: time(gap.until) ?? at, what: gap.what }));
  timeline.show({
    start: window ? time(window.from) - (at - time(window.from)) * 0.06 : first, from: first - (at - first) * 0.02, to: at, reach: window ? [time(window.from), until ?? at] : null, gaps, words: (ms) => `${stamp(ms)} UTC`,
    backups: repository.backups.map((backup) => ({ at: time(backup.at), alone: !backup.reaches_on, words: `backup ${backup.id}, ${backup.kept.join(", ")}` })),
  });
  $("window-gaps").replaceChildren(...gaps.map((gap) => el("li", {}, el("span", { class: "bad" }, "Cannot be restored: "), `${short(gap.from)} to ${short(gap.until)} UTC. `, el("span", { class: "soft" }, gap.what))));
}

function calendar(now) {
  const { facts } = now, at = time(facts.at), repository = seen(facts.repository);
  if (!repository) return $("calendar").replaceChildren(trouble(facts.repository, "The repository"));
  const days = new Map();
  for (const backup of repository.backups) days.set(stamp(time(backup.began)).slice(0, 10), backup);
  const months = [...new Set([...days.keys()].map((day) => day.slice(0, 7)).concat(short(at).slice(0, 7)))].sort().reverse();
  const said = el("p", { class: "chosen-backup soft", "aria-live": "polite" }, "A day with a backup tells more when it is chosen.");
  const tell = (backup) => {
    const drilled = backup.drilled ? (backup.drilled.passed ? `, passed a drill on ${short(time(backup.drilled.at)).slice(0, 10)}` : `, FAILED a drill on ${short(time(backup.drilled.at)).slice(0, 10)}`) : ", never drilled";
    set(said, `${backup.id}: ${bytes(backup.bytes)} in ${span(backup.took_seconds)}, ${bytes(backup.bytes_stored)} stored${drilled}. Kept: ${backup.kept.concat(backup.held ? [`held: ${backup.held}`] : []).join("; ") || "no reason, it goes next"}.`);
  };
  const began = repository.backups.length ? time(repository.backups.filter((backup) => backup.reaches_on)[0]?.began) : null;
  // Months with a single backup need no grid.
  const counted = (month) => [...days.keys()].filter((day) => day.startsWith(month)).length;
  const drawn = months.filter((month, i) => i === 0 || counted(month) > 1).slice(0, 4).map((month) => {
    const [year, number] = month.split("-").map(Number), first = Date.UTC(year, number - 1, 1), count = new Date(Date.UTC(year, number, 0)).getUTCDate();
    const cells = Array.from({ length: (new Date(first).getUTCDay() + 6) % 7 }, () => el("span"));
    for (let day = 1; day <= count; day += 1) {
      const key = `${month}-${two(day)}`, backup = days.get(key), ms = Date.UTC(year, number - 1, day);
      if (!backup) { cells.push(el("span", { class: `day${began && ms > began && ms < at - DAY ? " missing" : ""}`, title: began && ms > began && ms < at - DAY ? "no backup of this day" : null }, String(day))); continue; }
      const marks = [backup.is_monthly && "monthly", backup.held && "held", backup.drilled && (backup.drilled.passed ? "passed" : "failed")].filter(Boolean);
      cells.push(el("button", { class: `day has ${marks.join(" ")}`, "aria-label": `Backup of ${day} ${MONTHS[number - 1]} ${year}${marks.length ? `: ${marks.join(", ")}` : ""}`, onclick: () => tell(backup) }, String(day)));
    }
    return el("div", { class: "month", "data-month": month }, el("h3", {}, `${MONTHS[number - 1]} ${year}`), el("div", { class: "days" }, ...cells));
  });
  const shown = new Set(drawn.map((node) => node.dataset.month));
  const older = [...days].filter(([day]) => !shown.has(day.slice(0, 7))).sort().map(([day, backup]) => {
    const marks = [backup.is_monthly && "monthly", backup.held && "held", backup.drilled && (backup.drilled.passed ? "passed" : "failed")].filter(Boolean);
    const words = `${Number(day.slice(8))} ${MONTHS[Number(day.slice(5, 7)) - 1]} ${day.slice(0, 4)}`;
    return el("button", { class: `older day has ${marks.join(" ")}`, "aria-label": `Backup of ${words}${marks.length ? `: ${marks.join(", ")}` : ""}`, onclick: () => tell(backup) }, words);
  });
  const legend = [["", "daily"], ["l-monthly", "monthly"], ["l-held", "held"], ["l-drilled", "drilled"]].map(([name, word]) => el("span", {}, el("i", { class: name }), word));
  $("calendar").replaceChildren(el("div", { class: "months" }, ...drawn), older.length ? el("div", { class: "olders" }, ...older) : "", el("div", { class: "legend" }, ...legend), said);
}

function lag(now) {
  const { facts } = now, server = seen(facts.server), receiver = facts.receiver;
  const parts = [];
  if (!server) parts.push(trouble(facts.server, "PostgreSQL"));
  else parts.push(el("p", { class: "lead" }, `${server.wal_lag_bytes === null ? "An unknown amount" : bytes(server.wal_lag_bytes)} of WAL waits${server.wal_lag_seconds ? `, commits of the last ${span(server.wal_lag_seconds)}` : ""}. ${server.slot.active ? "It is being streamed." : server.is_archived ? "The server archives it here." : "Nobody streams it."}`));
  const samples = receiver ? receiver.lag.map((sample) => [time(sample.at), sample.value]) : [];
  if (samples.length) parts.push(chart({ samples, limit: facts.objectives.wal_lag_seconds, limitWords: `told at ${span(facts.objectives.wal_lag_seconds)}`, words: span, least: 1, label: `Seconds that commits waited, up to ${span(Math.max(...samples.map((s) => s[1])))}` }));
  if (receiver && receiver.why) parts.push(el("p", { class: "bad" }, receiver.why));
  $("lag").replaceChildren(...parts);
}

function drills(now) {
  const repository = seen(now.facts.repository);
  if (!repository) return $("drills").replaceChildren(trouble(now.facts.repository, "The repository"));
  if (!repository.drills.length) return $("drills").replaceChildren(el("p", { class: "soft" }, "None was held yet: bowline verify restores the newest backup into a place of its own and checks everything there."));
  const open = new Set([...document.querySelectorAll(".drill[open]")].map((node) => node.dataset.at));
  $("drills").replaceChildren(...repository.drills.map((drill) => {
    const phases = el("div", { class: "phases", "aria-hidden": "true" }, ...drill.phases.map((phase) => { const i = el("i"); i.style.flexGrow = String(phase.seconds); return i; }));
    const node = el("details", { class: "drill", "data-at": drill.at, open: open.has(drill.at) },
      el("summary", {}, el("span", { class: drill.outcome === "passed" ? "good" : "bad" }, drill.outcome), el("span", {}, short(time(drill.at))), el("span", { class: "soft" }, span(drill.seconds)),
        el("span", { class: "soft" }, drill.faults.length ? drill.faults[0] : `${many(drill.rows, "row")} of ${many(drill.tables, "table")} in ${many(drill.databases, "database")}, ${many(drill.checks, "question")}`)),
      el("div", { class: "inside" }, phases, el("p", { class: "soft" }, drill.phases.map((phase) => `${phase.name} ${span(phase.seconds)}`).join(", ")),
        el("p", {}, `Backup ${drill.backup || "none"}, restored to ${drill.target}. The report in the repository: `, el("code", {}, `drills/${drill.at.replace(/[-:]/g, "").replace(/\.\d+/, "")}/report.html`)),
        ...drill.faults.map((fault) => el("p", { class: "bad" }, fault))));
    return node;
  }));
}

function room(now) {
  const { facts } = now, capacity = seen(facts.capacity), parts = [];
  if (facts.capacity && !capacity) parts.push(trouble(facts.capacity, "The repository's room"));
  if (capacity) {
    const share = Math.round((capacity.used_bytes / capacity.limit_bytes) * 100), days = capacity.days_to_full;
    parts.push(el("p", { class: "lead" }, `${bytes(capacity.used_bytes)} of ${bytes(capacity.limit_bytes)} (${share} %)${capacity.growth_bytes_per_day ? `, ${bytes(Math.abs(capacity.growth_bytes_per_day))} ${capacity.growth_bytes_per_day < 0 ? "less" : "more"} a day` : ""}${days ? `; full in ${Math.round(days)} days` : ""}.`));
    const samples = capacity.history.map((sample) => [time(sample.at), sample.value]);
    const last = samples[samples.length - 1], ahead = days ? Math.min(days, 90) : null;
    const forecast = last && ahead && capacity.growth_bytes_per_day > 0 ? [last, [last[0] + ahead * DAY, last[1] + ahead * capacity.growth_bytes_per_day]] : null;
    parts.push(chart({ samples, limit: capacity.limit_bytes, limitWords: capacity.kind === "quota" ? "quota" : "disk", forecast, words: bytes, label: `Bytes of the repository over time: ${bytes(capacity.used_bytes)} now` }));
  }
  if (facts.disks.length) parts.push(el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["On this host", "Free", "Of", "Needed"].map((word, i) => el("th", { class: i ? "num" : null, scope: "col" }, word)))),
    el("tbody", {}, ...facts.disks.map((disk) => el("tr", {}, el("td", {}, disk.name), el("td", { class: `num${disk.needed_bytes && disk.needed_bytes > disk.free_bytes ? " bad" : ""}` }, bytes(disk.free_bytes)), el("td", { class: "num" }, bytes(disk.total_bytes)), el("td", { class: "num" }, disk.needed_bytes ? bytes(disk.needed_bytes) : "")))))));
  $("capacity").replaceChildren(...(parts.length ? parts : [el("p", { class: "soft" }, "Nothing was measured yet.")]));
}

function jobs(now) {
  const { facts } = now, at = time(facts.at);
  if (!facts.jobs.length) return $("jobs").replaceChildren(el("p", { class: "soft" }, "No daemon keeps a schedule."));
  const row = (job) => {
    const failed = job.last && ["failed", "broken-off"].includes(job.last.outcome);
    const state = job.running ? el("span", { class: "good" }, `running${job.running.bytes_total ? `, ${Math.round((job.running.bytes_done / job.running.bytes_total) * 100)} %` : ""}`)
      : job.overdue_since ? el("span", { class: "bad" }, `overdue since ${short(time(job.overdue_since))}`) : failed ? el("span", { class: "bad" }, job.last.summary || job.last.outcome)
      : job.last_success ? ago(time(job.last_success.began), at) : el("span", { class: "soft" }, "never ran");
    return el("tr", {}, el("td", {}, job.name), el("td", {}, state), el("td", {}, job.next ? ago(time(job.next), at) : ""), el("td", { class: "mono soft" }, job.schedule));
  };
  $("jobs").replaceChildren(el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {}, ...["Job", "Last", "Next", `Schedule (${facts.jobs[0].zone})`].map((word) => el("th", { scope: "col" }, word)))), el("tbody", {}, ...facts.jobs.map(row)))));
}

async function runs() {
  let found;
  try { found = await ask("/api/runs"); } catch (error) { if (error.said) $("runs").replaceChildren(el("p", { class: "bad" }, `The ledger cannot be read: ${error.said.trouble?.summary || ""}`)); return; }
  if (!found.length) return $("runs").replaceChildren(el("p", { class: "soft" }, "Nothing ran yet."));
  const known = new Map([...document.querySelectorAll("#runs details")].map((node) => [node.dataset.run, node]));
  const nodes = found.slice(0, 40).map((run) => {
    const key = run.run, words = [run.outcome === "running" ? "running" : run.outcome, short(time(run.began)), run.ended ? span((time(run.ended) - time(run.began)) / 1000) : "…", run.summary || (run.bytes ? bytes(run.bytes) : run.by)];
    let node = known.get(key);
    if (!node) {
      node = el("details", { "data-run": key }, el("summary", {}, el("span"), el("span"), el("span", { class: "soft" }), el("span", { class: "soft" })), el("div", { class: "inside" }, el("pre", { tabindex: 0, "aria-label": `What ${key} printed` }, "…")));
      node.addEventListener("toggle", () => { if (node.open) { openRun = key; log(); } else if (openRun === key) openRun = null; });
    }
    const cells = node.firstChild.children;
    cells[0].className = run.outcome === "ok" || run.outcome === "running" ? "good" : run.outcome === "refused" ? "soft" : "bad";
    [`${run.job} ${words[0]}`, words[1], words[2], words[3]].forEach((word, i) => set(cells[i], word));
    node.dataset.hint = run.hint || "";
    return node;
  });
  const host = $("runs");
  if (nodes.length !== host.children.length || nodes.some((node, i) => host.children[i] !== node)) host.replaceChildren(...nodes);
}

async function log() {
  const key = openRun, node = key && document.querySelector(`#runs details[data-run="${CSS.escape(key)}"]`);
  if (!node) return;
  const pre = node.querySelector("pre");
  try {
    const lines = await ask(`/api/runs/${encodeURIComponent(key)}`);
    set(pre, (lines.join("\n") || "It printed nothing.") + (node.dataset.hint ? `\n\n→ ${node.dataset.hint}` : ""));
  } catch { set(pre, "Its log is not kept."); }
}

function details(now) {
  const { facts } = now, repository = seen(facts.repository), server = seen(facts.server), copy = seen(facts.second_copy), packages = seen(facts.packages), rows = [];
  const add = (name, value, isBad) => rows.push(el("dt", {}, name), el("dd", { class: isBad ? "bad" : null }, value));
  const bad = (name, look) => { const why = unseen(look); if (why) add(name, `cannot be looked at: ${why.summary}`, true); };
  if (repository) {
    add("Repository", repository.address);
    add("Encryption", repository.is_encrypted ? "AES-256-GCM" : "OFF", !repository.is_encrypted);
    if (repository.stored) add("WAL stored", `${whole(repository.stored.segments)} segments, to ${repository.stored.lsn} on timeline ${repository.stored.timeline}`);
    if (repository.audited) add("WAL audited", `${ago(time(repository.audited), time(facts.at))}, ${repository.gaps.length ? many(repository.gaps.length, "gap") : "whole"}`, repository.gaps.length > 0);
    if (repository.expired.backups) add("Going", `${many(repository.expired.backups, "backup")}, ${bytes(repository.expired.bytes)}, once the grace is over`);
  } else bad("Repository", facts.repository);
  for (const recipient of seen(facts.keys) || []) add("Opens it", recipient.trouble ? `${recipient.name}: ${recipient.trouble.summary}` : recipient.name, !!recipient.trouble);
  bad("Keys", facts.keys);
  if (server) {
    add("PostgreSQL", `${server.version}, at ${server.lsn}${server.is_synchronous ? ", Bowline is a synchronous standby" : ""}`);
    add("Slot", `${server.slot.name}: ${server.slot.wal_status || "missing"}, holds ${bytes(server.slot.held_bytes ?? 0)} of WAL on the server`);
  } else bad("PostgreSQL", facts.server);
  if (copy) add("Second copy", `${copy.address}: ${copy.lag_seconds === null ? "unknown" : span(copy.lag_seconds)} behind, ${copy.backups - copy.backups_missing} of ${many(copy.backups, "backup")}`, copy.is_late);
  bad("Second copy", facts.second_copy);
  if (packages) add("Packages", `${whole(packages.objects)} objects, ${bytes(packages.bytes)}; the replica is ${packages.lag_seconds === null ? "an unknown time" : span(packages.lag_seconds)} behind, ${packages.failed} failed`, packages.failed > 0);
  bad("Packages", facts.packages);
  if (facts.scrub) add("Read again", `${facts.scrub.last ? `${ago(time(facts.scrub.last), time(facts.at))}, ${bytes(facts.scrub.bytes)}` : "never"}; ${facts.scrub.damage.length ? `${many(facts.scrub.damage.length, "object")} damaged` : "nothing damaged"}`, facts.scrub.damage.length > 0);
  if (facts.acting) add("Acting", facts.acting);
  if (facts.configuration) add("Configuration", facts.configuration.summary, true);
  $("details").replaceChildren(...rows);
}

function row(name, value) { return value === null || value === undefined || value === "" ? [] : [el("dt", {}, name), el("dd", {}, String(value))]; }

async function plan(target) {
  const command = `bowline restore --to ${target === "latest" ? "latest" : `"${target}"`}`;
  const copied = el("button", { type: "button", onclick: async () => { try { await navigator.clipboard.writeText(command); copied.textContent = "Copied"; } catch { getSelection().selectAllChildren(line); copied.textContent = "Selected"; } } }, "Copy");
  const line = el("code", {}, command), host = $("plan");
  const box = el("div", { class: "plan" }, el("div", { class: "command" }, line, copied), el("p", { class: "soft" }, "Reading the repository…"));
  host.replaceChildren(box);
  try {
    const said = await ask(`/api/plan?to=${encodeURIComponent(target)}`), found = said.plan || said, estimate = said.estimate;
    const list = el("dl", { class: "facts" }, ...row("Backup", typeof found.backup === "object" && found.backup ? found.backup.id : found.backup), ...row("Timeline", found.timeline), ...row("Recovery ends", found.stop), ...row("WAL segments", found.segments),
      ...row("Files", found.database_bytes ? `${bytes(found.database_bytes)}, ${bytes(found.repository_bytes)} from the repository` : null), ...row("Takes about", estimate && estimate.total_seconds ? span(estimate.total_seconds) : null), ...row("Would be lost", found.lost));
    const refused = (said.refusals || []).map((refusal) => el("p", { class: "bad" }, `It cannot be done like this: ${refusal.summary}. ${refusal.detail} ${refusal.hint}`));
    const install = said.install ? [el("p", {}, "This host lacks something: ", el("code", {}, said.install))] : [];
    const notes = refused.concat(install, (found.notes || []).map((note) => el("p", { class: "soft" }, note)));
    box.replaceChildren(box.firstChild, list, ...notes, el("details", {}, el("summary", {}, "All of it as JSON"), el("pre", { tabindex: 0 }, JSON.stringify(said, null, 2))));
  } catch (error) {
    const why = error.said && error.said.trouble;
    box.replaceChildren(box.firstChild, el("p", { class: "bad" }, why ? `${why.summary}. ${why.detail}` : "The plan could not be made."), why && why.hint ? el("p", {}, `→ ${why.hint}`) : "");
  }
}

function pick(ms) { $("instant").value = stamp(ms).replace(" ", "T"); $("planner").scrollIntoView({ block: "nearest" }); }

async function look() {
  let now;
  try { now = await ask("/api/now"); } catch (error) {
    if (error.message === "log in") return;
    $("verdict").className = "verdict blind";
    set($("verdict-word"), "Nobody knows.");
    set($("verdict-why"), error.said ? "The daemon has not observed anything yet." : "The daemon does not answer. What is below may be old.");
    document.title = "Unknown · Bowline";
    return;
  }
  latest = now;
  set($("org"), now.facts.org);
  set($("observed"), now.age_seconds > 60 ? `observed ${span(now.age_seconds)} ago` : `observed ${short(time(now.facts.at))} UTC`);
  $("observed").className = `observed${now.age_seconds > 120 ? " bad" : ""}`;
  set($("version"), `Bowline ${now.version}`);
  $("logout").hidden = !now.has_login;
  for (const part of [verdict, figures, alarms, recovery, lag, drills, room, jobs, channels, details]) part(now);
  const key = JSON.stringify(seen(now.facts.repository)?.backups) + now.facts.at.slice(0, 10);
  if (key !== look.calendar) { look.calendar = key; calendar(now); }
}

function begin() {
  timeline = new Timeline($("timeline"), pick);
  $("zoom-in").addEventListener("click", () => timeline.zoom(0.4));
  $("zoom-out").addEventListener("click", () => timeline.zoom(2.5));
  $("zoom-all").addEventListener("click", () => timeline.all());
  $("planner").addEventListener("submit", (event) => { event.preventDefault(); const value = $("instant").value; plan(value ? `${value.replace("T", " ")}${value.length === 16 ? ":00" : ""} UTC` : "latest"); });
  $("latest").addEventListener("click", () => { $("instant").value = ""; plan("latest"); });
  look().then(runs);
  setInterval(() => { if (!document.hidden) { look(); runs(); } }, LOOK_EVERY);
  setInterval(() => { if (!document.hidden && openRun && latest) log(); }, 2000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) { look(); runs(); } });
}

if ($("verdict")) begin();
else if ($("wrong") && location.search === "?wrong") $("wrong").textContent = "That was not the token.";
