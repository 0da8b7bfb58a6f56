package lockstep_test

import (
	"regexp"
	"strings"
	"testing"
)

// fact is a sentence, or the part of one, that a page says, and what in the code makes it
// true: "folder: expression over its constants", or "file ~ text that stands in it".
type fact struct {
	page, says string
	since      []string
}

// facts are what pages say in figures. Who changes a constant finds here where it is told of;
// who writes a figure adds it.
var facts = []fact{
	{"docs/limits.md", "| window announced per leg | 4 MiB |", []string{"stack/engine.go ~ o.Window = 4 << 20"}},
	{"docs/limits.md", "| send buffer per leg | 4 MiB |", []string{"stack/engine.go ~ o.SendBuffer = 4 << 20"}},
	{"docs/limits.md", "counts against its leg's window only) | 1 GiB", []string{"appliance: memoryPerByte*2 == 5*memoryPerTwo", "appliance/config: DefaultMemory == GiB"}},
	{"docs/limits.md", "data to queues above 64 KiB is dropped", []string{"stack: fairShare == 64<<10"}},
	{"docs/limits.md", "| connections per service | 100 000", []string{"appliance/config: DefaultConnections == 100000"}},
	{"docs/limits.md", "of one network (/24, /64) | 256; 64", []string{"appliance/config: DefaultHalfOpen == 256 && DefaultHalfOpenSource == 64", "stack: sourceBits4 == 24 && sourceBits6 == 64"}},
	{"docs/limits.md", "earliest (one a second; a crowd that more than doubles within its round trip can look so) | 2000 a second of each family, for 10 s", []string{"stack: floodRate == 1000 && floodLook == time.Second", "tun: pressureEach == 2000 && pressureLife == 10*time.Second && pressureRepeat == 3500*time.Millisecond"}},
	{"docs/limits.md", "| 524 288 of each family", []string{"tun: pressureTried == 524288"}},
	{"docs/limits.md", "first and second SYNs alike, 20 000 a second get in", []string{"tun: pressureFull == 20000"}},
	{"docs/limits.md", "| a SYN cookie is good for | 65 to 131 s |", []string{"stack: cookiePeriod == 65536*time.Millisecond"}},
	{"docs/limits.md", "while cookies are good | 4096, each 3 s", []string{"stack: earlyMax == 4096 && earlyWait == 3*time.Second"}},
	{"docs/limits.md", "| an acknowledgement that waits for an answer | 40 ms,", []string{"stack: delayMax == 40*time.Millisecond"}},
	{"docs/limits.md", "has not asked for yet; one determinant; a process's path, 8 bytes a fork | 65 536; 16 MiB; 64 KiB; 4 KiB |", []string{"wrap/determinant: MaxInstances == 65536 && MaxKept == 16<<20 && MaxValue == 64<<10", "wrap/agree: maxPath == 4096"}},
	{"docs/limits.md", "| `wrap`: an answer of the authority | 200 ms (`--timeout`) |", []string{"cmd/lockstep/wrap_amd64.go ~ \"timeout\", 200*time.Millisecond"}},
	{"docs/limits.md", "| 1024, with 64 MiB of entries in sum |", []string{"wrap: maxListings == 1024 && maxListing == 64<<20"}},
	{"docs/limits.md", "results are the server's own from then on, which is said; 5 s later", []string{"wrap/agree: retryAfter == 5e9"}},
	{"docs/limits.md", "refusals that are told in an hour | 64; 16; 3 s; 5 s; 100 |", []string{"wrap/agree: maxServers == 64 && maxStrangers == 16 && handshakeTimeout == 3e9 && goneAfter == 5e9 && maxRefusals == 100"}},
	{"docs/limits.md", "each of which is agreed on | 1000 |", []string{"wrap: maxReads == 1000"}},
	{"docs/limits.md", "descriptors that the program inherits | below 1024 |", []string{"wrap/jail: maxInherited == 1024"}},
	{"docs/limits.md", "| 64 MiB of entries; 1 048 576 |", []string{"wrap: maxListing == 64<<20 && maxInodes == 1<<20"}},
	{"docs/limits.md", "| the same, until it is parked | 10 s", []string{"appliance/config: DefaultParkAfter == 10*time.Second"}},
	{"docs/limits.md", "| SYN waits for a server | 130 s |", []string{"appliance/relay: dialMax == 130*time.Second"}},
	{"docs/limits.md", "(`source: gateway`) | 64 512 |", []string{"stack: PortsPerServer == 64512"}},
	{"docs/limits.md", "| SYN-ACK | 4 attempts, from 1 s doubling | given up, 15 s after the first |", []string{"stack: synAckMax == 4 && synAckFirst == time.Second && (1+2+4+8)*synAckFirst == 15*time.Second"}},
	{"docs/limits.md", "of a connection that is passed on | 16 s |", []string{"stack: splicedHalfOpen == 16*time.Second"}},
	{"docs/limits.md", "before the next one is tried | 2 beside", []string{"appliance/relay: askedMax == 2"}},
	{"docs/limits.md", "ended here since, because their clients do not read | 1000, and none", []string{"appliance/relay: takenMax == 1000"}},
	{"docs/limits.md", "when that begins | 5 s to arrive", []string{"appliance/relay: takeMax == 5*time.Second"}},
	{"docs/limits.md", "it stays passed on, for a minute at least", []string{"appliance/relay: takeAgain == time.Minute"}},
	{"docs/limits.md", "was parked, taken over or passed on | 32; 512 |", []string{"stack: pendingMax == 32", "stack: pendingAgain == 512"}},
	{"docs/paths.md", "at two looks in a row, a second apart", []string{"appliance/relay: stalledLooks == 2 && janitorPeriod == time.Second"}},
	{"docs/paths.md", "watched for half a second", []string{"stack: stampSpan == 500*time.Millisecond"}},
	{"docs/paths.md", "has not arrived within 5 s", []string{"appliance/relay: takeMax == 5*time.Second"}},
	{"docs/paths.md", "A client that is silent for 16 s", []string{"stack: splicedHalfOpen == 16*time.Second"}},
	{"docs/limits.md", "| 7 attempts, 8 s apart at most | given up, 39 s after the first |", []string{"stack: synAckContinued == 7 && synAckMax == 4 && (1+2+4+4*8)*synAckFirst == 39*time.Second"}},
	{"docs/limits.md", "50 within 10 s, then 120, one a second; 10 000 a second in all", []string{"stack: probesQuick == 50 && probesSlow == 120 && dueBatch*(time.Second/duePause) == 10000", "stack/probe.go ~ 100 * time.Millisecond, 200 * time.Millisecond, time.Second}"}},
	{"docs/limits.md", "and is silent for 200 ms and two round trips |", []string{"stack: suspectAfter == 200*time.Millisecond"}},
	{"docs/limits.md", "once a second, if it has left 2 probes unanswered: those heard in the second before that silence, or in it, by more than an answer to a probe, and silent for 200 ms |", []string{"stack: outageProbes == 2 && askSilentEvery == time.Second && lately == time.Second && suspectAfter == 200*time.Millisecond"}},
	{"docs/limits.md", "is silent for 200 ms while what it does not acknowledge comes again | every 100 ms, 100 times, then 60, one a second; 10 000 ends at a time, 10 000 a second in all |", []string{"splice: Silence == 200*time.Millisecond", "stack: askEvery == 100*time.Millisecond && muteQuick == 100 && muteSlow == 60 && askSlowly == time.Second && muteMost == 10000 && dueBatch*(time.Second/duePause) == 10000"}},
	{"docs/limits.md", "the SYN or the SYN-ACK (for 10 s) | 50 a second in all |", []string{"stack: guesses == 50 && muteQuick*askEvery == 10*time.Second"}},
	{"docs/limits.md", "time-outs taken back | 500 ms |", []string{"stack: outageLeast == 500*time.Millisecond"}},
	{"docs/limits.md", "one per leg and 500 ms", []string{"stack: challengePeriod == 500*time.Millisecond"}},
	{"docs/limits.md", "552 (IPv6: 1280) at least; kept 10 minutes", []string{"stack: minMTU4 == 552 && minMTU6 == 1280 && pathMTULife == 10*time.Minute"}},
	{"docs/limits.md", "50 a second, 100 at first; 2 to 4 times 4096 are remembered", []string{"stack: strangersEach == 50 && strangersBurst == 100 && acquaintances == 4096"}},
	{"docs/limits.md", "in a container the host must) | 4096; 16 384; 32 768 of", []string{"tun: neighboursKept == 4096 && neighboursSoft == 16384 && neighboursMost == 32768"}},
	{"docs/limits.md", "lets in, and 60 000; 4 194 304 at most", []string{"tun: tracksEach == 2 && tracksSpare == 60000 && tracksMost == 4194304"}},
	{"docs/limits.md", "| 256, and 2 for each server; a connection has none", []string{"appliance: descriptorsSpare == 256 && descriptorsEach == 2"}},
	{"docs/limits.md", "until it is the active | 2048, 4 MiB, 200 ms |", []string{"stack: heldPackets == 2048 && heldBytes == 4<<20 && heldLife == 200*time.Millisecond"}},
	{"docs/limits.md", "handed on, for | 500 ms (up to 2 s more while something is left); 1 s, and 50 ms when the peer is active |", []string{"tun: keeperLife == 500*time.Millisecond && keeperLate == 2*time.Second", "appliance: handOnTime == time.Second", "stack: onwardLast == 50*time.Millisecond"}},
	{"docs/limits.md", "| clients asked whether their connection is lost | 4096 for 10 s |", []string{"stack: lostMax == 4096 && lostKeep == 10*time.Second"}},
	{"docs/limits.md", "65 536 for 10 s / 65 536 for 60 s", []string{"stack: tombstoneMax == 65536 && tombstoneLife == 10*time.Second", "replication/limits.go ~ def(&l.MaxTombstones, 1<<16)", "replication/limits.go ~ def(&l.Linger, 60*second)"}},
	{"docs/limits.md", "| bytes per stream and turn of a worker | 1 MiB |", []string{"appliance/carry: MoveMax == 1<<20"}},
	{"docs/limits.md", "| 256; 2 KiB; 2 s | the oldest is dropped", []string{"stack: fragmentsMax == 256 && fragmentSize == 2<<10 && fragmentLife == 2*time.Second"}},
	{"docs/limits.md", "(`steering: flows`) | 16 384; after 10 s", []string{"appliance: steeredFlows == 16384", "stack: offloadIdle == 10*time.Second"}},
	{"docs/limits.md", "if the process does not say so again | 1 s,", []string{"stack: offloadMost == time.Second"}},
	{"docs/limits.md", "([steering](steering.md)) | 4096 |", []string{"tun/steer: ownMax == 4096"}},
	{"docs/limits.md", "to be given to netstack together | 512 |", []string{"stack: gatherMost == 512"}},
	{"docs/limits.md", "one per CPU, 8 at most", []string{"appliance: maxQueues == 8"}},
	{"docs/limits.md", "| packets in each queue of the TUN device | 8192 |", []string{"tun: tunQueueLen == 8192"}},
	{"docs/limits.md", "| protected connections | as many as the services' `limits.connections` let in", []string{"appliance/appliance.go ~ lim.MaxConns += s.Limits.Connections"}},
	{"docs/limits.md", "in one turn of the role loop | 1000,", []string{"appliance: restEach == 1000"}},
	{"docs/limits.md", "looked at for time-outs | every 4 s, while in doubt every second", []string{"appliance/relay: calmFor == 4*time.Second && janitorPeriod == time.Second"}},
	{"docs/limits.md", "| bytes held per stream / in all | 16 MiB / 1 GiB |", []string{"replication/limits.go ~ def(&l.MaxHeldPerStream, 16<<20)", "replication/limits.go ~ def(&l.MaxHeldTotal, 1<<30)"}},
	{"docs/limits.md", "| segments of a log; adapter's state | 64; 64 bytes |", []string{"replication: maxSegments == 64", "replication/wire: MaxState == 64", "appliance/adapter: MaxState == 64"}},
	{"docs/limits.md", "| 2 s without a byte; 512 |", []string{"appliance/kept/pace.go ~ var paceWait = 2 * time.Second", "replication: maxTurns == 512 && keepTurns == 64"}},
	{"docs/limits.md", "counts the files that it asks for | 65 536 |", []string{"wrap: maxNames == 1<<16"}},
	{"docs/limits.md", "key and value of one | 65 536; 16 MiB, 256 MiB; 1 KiB each |", []string{"replication/limits.go ~ def(&l.MaxLives, 1<<16)", "replication/limits.go ~ def(&l.MaxDecidedPerLife, 16<<20)", "replication/limits.go ~ def(&l.MaxDecidedTotal, 256<<20)", "replication/wire: MaxKey == 1<<10 && MaxValue == 1<<10"}},
	{"docs/limits.md", "that waits for the standby | 64; 8; 10 s |", []string{"wrap/agree: maxServers == 64", "appliance/decide: maxStarts == 8 && maxWait == 10*time.Second"}},
	{"docs/limits.md", "| bytes of batches waiting | 64 MiB |", []string{"replication/limits.go ~ def(&l.MaxPending, 64<<20)"}},
	{"docs/limits.md", "| snapshot | 24 connections every 2 ms; 96 unanswered; 64 KiB of batches waiting |", []string{"replication: adoptBurst == 24 && adoptPause == 2*millisecond && maxAsked == 96 && adoptPending == 64<<10"}},
	{"docs/limits.md", "256 KiB; 4 (2 with nothing but delivery reports, 32 for one with a digest)", []string{"replication/limits.go ~ def(&l.MaxBatchBytes, 256<<10)", "replication/limits.go ~ def(&l.MaxOutstanding, 4)", "replication/limits.go ~ def(&l.MaxOutstandingQuiet, 2)", "replication/limits.go ~ def(&l.MaxOutstandingDigests, 32)"}},
	{"docs/limits.md", "| frame | 1 MiB of payload |", []string{"replication/wire: MaxPayload == 1<<20"}},
	{"docs/limits.md", "per address | 8; witness: 8 and 4 per pair |", []string{"replication/transport/port.go ~ cfg.HandshakeSlots = 8", "appliance/witness/witness.go ~ HandshakeSlots: 8 + 4*len(ids)"}},
	{"docs/limits.md", "| voter's message; messages waiting per voter | 64 KiB; 64 |", []string{"replication/wire: MaxVoterMessage == 64<<10", "replication/courier/courier.go ~ setDefault(&c.Queue, 64)"}},
	{"docs/limits.md", "| messages and inputs waiting for a voter's core | 256 each |", []string{"appliance/voter: waiting == 256"}},
	{"docs/limits.md", "| voter's state file | 1 MiB; room for the next is kept, 16 KiB at least |", []string{"appliance/statefile: maxSize == 1<<20 && reserve == 16<<10"}},
	{"docs/limits.md", "| request log per connection | 16 MiB", []string{"appliance/config: DefaultLog == 16*MiB"}},
	{"docs/limits.md", "| request taken beyond what the source has | 1 MiB |", []string{"appliance/kept: logAhead == 1<<20"}},
	{"docs/limits.md", "| 3; `limits.log` of the request, 65 536 digests |", []string{"appliance/kept: maxReplicas == 3 && maxMarks == 65536"}},
	{"docs/limits.md", "| checkpoints that the client has not acknowledged | 16 |", []string{"appliance/kept: maxCuts == 16"}},
	{"docs/limits.md", "| segments of a response (takeovers without a checkpoint) | 64 |", []string{"replication: maxSegments == 64"}},
	{"docs/limits.md", "has acknowledged | 1 s without more of it |", []string{"appliance/kept: legPatience == time.Second"}},
	{"docs/limits.md", "or the probe is awaited) | 1 s |", []string{"appliance/kept: legPatience == time.Second"}},
	{"docs/limits.md", "| waiting for a server | 30 s", []string{"appliance/config: DefaultPatience == 30*time.Second"}},
	{"docs/limits.md", "stopped and nobody can continue them | 2 s |", []string{"appliance: endLimit == 2*time.Second"}},
	{"docs/limits.md", "| replicas after the end | 10 s |", []string{"appliance/kept: lingerMax == 10*time.Second"}},
	{"docs/limits.md", "of a parked connection again | 30 s |", []string{"appliance/kept: buildMax == 30*time.Second"}},
	{"docs/limits.md", "| delivering what came before a reset | 10 s without an ACK, 2 min in all |", []string{"appliance/carry: drainSilent == 10*time.Second && drainMax == 2*time.Minute"}},
	{"docs/limits.md", "2 h, then 9 questions every 75 s", []string{"appliance/config: DefaultKeepaliveIdle == 2*time.Hour && DefaultKeepaliveCount == 9 && DefaultKeepaliveInterval == 75*time.Second"}},
	{"docs/limits.md", "| idle connection | 120 h", []string{"appliance/config: DefaultIdle == 120*time.Hour"}},
	{"docs/limits.md", "| log lines that a stranger causes | 8 sources a minute, each once |", []string{"internal/loglimit: maxSources == 8 && period == time.Minute"}},
	{"docs/limits.md", "| log lines of one kind | 60 a minute;", []string{"internal/loglimit: maxLines == 60 && period == time.Minute"}},
	{"docs/limits.md", "one in 250 ms, the last repeated once", []string{"tun: defendEvery == 250*time.Millisecond"}},
	{"docs/limits.md", "| once a second, and at events, 10 a second at most |", []string{"tun: lookEvery == time.Second && lookPause == time.Second/10"}},
	{"docs/limits.md", "more than 5 repairs in 10 s: unfit", []string{"tun: struggleCount == 5 && struggleTime == 10*time.Second"}},
	{"docs/limits.md", "| 30 s; 8 MiB (", []string{"tun: guardPatience == 30*time.Second && guardBuffer == 8<<20"}},
	{"docs/limits.md", "| 16 of 255 bytes; 1024 |", []string{"replication/wire: MaxFaults == 16 && MaxFaultText == 255 && MaxServices == 1024"}},
	{"docs/limits.md", "| heartbeat, silence | 20 ms, 100 ms", []string{"appliance/config: DefaultHeartbeat == 20*time.Millisecond && DefaultFailureTimeout == 100*time.Millisecond"}},
	{"docs/limits.md", "up to 500 ms | takeover |", []string{"replication/roles/patience.go ~ min(5*failureTimeout, 2000*millis)"}},
	{"docs/limits.md", "| silence of whoever may hold connections | 10 s", []string{"appliance/config: DefaultStartEmptyAfter == 10*time.Second"}},
	{"docs/limits.md", "| 0.5 s after the lease, 0.4 s after a confirmed heartbeat (up to 0.9 s, 1.04 s, with promises) |", []string{"replication/roles/alone.go ~ return 10*c.Heartbeat + mute + 200*millis", "replication/roles/alone.go ~ return p.Wait + c.doubtTime(p.Mute)*3/5"}},
	{"docs/limits.md", "| services; servers of one with `log` or `hot` | 1024; 32 |", []string{"appliance/config: maxServices == 1024 && maxServers == 32"}},
	{"docs/limits.md", "| pairs of a witness | 1000 |", []string{"appliance/config: maxIdentities == 1000"}},
	{"docs/limits.md", "the first frame | 3 s; 1 s; 1 KiB |", []string{"replication/link/link.go ~ setDefault(&c.HandshakeTimeout, 3*time.Second)", "replication/courier/courier.go ~ setDefault(&c.HandshakeTimeout, time.Second)", "replication/transport: maxHello == 1<<10"}},
	{"docs/limits.md", "`lockstep connections` | 10 000 |", []string{"appliance/control: MostConnections == 10000"}},
	{"docs/limits.md", "at a time | 16; 4 |", []string{"appliance/control: maxClients == 16", "appliance/metrics: maxScrapes == 4"}},
	{"docs/limits.md", "| configuration file | 1 MiB |", []string{"appliance/config: maxFile == 1<<20"}},
	{"docs/limits.md", "| head of a message (`protocol: http`) | 64 KiB |", []string{"appliance/adapter: MaxHead == 64<<10"}},

	{"docs/protocol.md", "| names of pair, node and service, at most | 63 |", []string{"replication/wire: maxName == 63 && MaxService == 63"}},
	{"docs/protocol.md", "| text of a Reject, at most | 255 |", []string{"replication/wire: maxRejectText == 255"}},
	{"docs/protocol.md", "| connections that one Ack can refuse | 87381 |", []string{"replication/wire: MaxRefused == 87381"}},
	{"docs/protocol.md", "| 16, 255; 1024; 16 |", []string{"replication/wire: MaxFaults == 16 && MaxFaultText == 255 && MaxServices == 1024 && MaxAspects == 16"}},

	{"docs/takeover.md", "queue with their leg (512 packets at most)", []string{"stack: pendingAgain == 512"}},
	{"docs/takeover.md", "trip, plus 20 ms", []string{"appliance: shiftMargin == 20"}},
	{"docs/takeover.md", "after 50, 100, then every 200 ms", []string{"stack/probe.go ~ probeDelays = [...]time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond,"}},
	{"docs/takeover.md", "less than 150 ms ago", []string{"stack: quickOutage == 150*time.Millisecond"}},
	{"docs/takeover.md", "256 KiB larger than", []string{"stack: windowSlack == 256<<10"}},

	{"docs/standby.md", "24 connections every 2 ms while anything moves", []string{"replication: adoptBurst == 24 && adoptPause == 2*millisecond"}},
	{"docs/standby.md", "while more than 64 KiB of batches wait", []string{"replication: adoptPending == 64<<10"}},

	{"docs/failover.md", "every 64 KiB while replicas run", []string{"appliance/kept: markEvery == 64<<10"}},
	{"docs/failover.md", "silence while another replica goes on for 100 ms", []string{"appliance/kept: silentMin == 100*time.Millisecond"}},
	{"docs/failover.md", "up to 1 MiB beyond what the lost server had", []string{"appliance/kept: logAhead == 1<<20"}},
	{"docs/failover.md", "first 512 and last 256 bytes", []string{"appliance/kept: headMax == 512 && tailMax == 256"}},
	{"docs/failover.md", "Replicas that have not finished when the connection has are given 10 s", []string{"appliance/kept: lingerMax == 10*time.Second"}},

	{"docs/tuning.md", "up to 500 ms of the default's 100, to 2 s at most", []string{"replication/roles/patience.go ~ min(5*failureTimeout, 2000*millis)"}},
	{"docs/tuning.md", "10 heartbeats, `failure_timeout` and 200 ms after its lease", []string{"replication/roles/alone.go ~ return 10*c.Heartbeat + mute + 200*millis"}},
	{"docs/tuning.md", "64 512 connections at a time to one server", []string{"stack: PortsPerServer == 64512"}},
	{"docs/tuning.md", "(`health.interval`, 5 s,", []string{"appliance/config: DefaultHealthInterval == 5*time.Second"}},
	{"docs/tuning.md", "four times the longest delay of the last minute", []string{"replication/roles: patienceFactor == 4"}},
	{"docs/tuning.md", "for ten seconds after a takeover for the longest time", []string{"replication/roles: holdDown == 10000*millis"}},
	{"docs/tuning.md", "if the whole is at most 2 KiB", []string{"stack: fragmentSize == 2<<10"}},
	{"docs/tuning.md", "narrower than 552 bytes (IPv4)", []string{"stack: minMTU4 == 552"}},

	{"docs/roles.md", "four times the longest delay of the last minute, and for ten seconds after a takeover", []string{"replication/roles: patienceFactor == 4 && holdDown == 10000*millis"}},

	{"SAFETY.md", "A reset within 10 s of a takeover is not (`TestServerGivenUpBeforeTakeover`)", []string{"appliance/kept: inherited == 10*time.Second"}},
	{"SAFETY.md", "are not answered for 3 s (`early-segment`", []string{"stack: earlyWait == 3*time.Second"}},
	{"SAFETY.md", "within 131 s of its cookie", []string{"stack: 2*cookiePeriod == 131072*time.Millisecond"}},
	{"SAFETY.md", "that cannot be reached for 39 s is given up", []string{"stack: (1+2+4+4*8)*synAckFirst == 39*time.Second"}},

	{"docs/paths.md", "passes on what is repeated for 10 s more", []string{"splice: tombstoneIdle == 10*time.Second"}},
	{"docs/paths.md", "A stop waits 200 ms for such answers", []string{"appliance/relay: answersWait == 200*time.Millisecond"}},
	{"docs/paths.md", "SYN is dropped for 3 s at most", []string{"splice: grace+2*askAgain == 3*time.Second"}},
	{"docs/deploy.md", "has not answered for 15 s", []string{"images/machine: hungAfter == 15*time.Second"}},
	{"docs/deploy.md", "a machine that hangs is reset after 20 s", []string{"images/machine: watchdogTimeout == 20*time.Second"}},
	{"docs/deploy.md", "| disk | 146 MiB,", []string{"images/disk: size == 146*megabyte"}},
	{"docs/install.md", "a bootable disk (146 MiB,", []string{"images/disk: size == 146*megabyte"}},
	{"docs/failures.md", "after 2 s without it the appliance is unfit", []string{"tun: defaultPatience == 2*time.Second"}},
	{"docs/failures.md", "tried every 5 s, so that", []string{"appliance: statePeriod == 5*time.Second"}},
	{"docs/failures.md", "when four looks in a row", []string{"replication/shell: looks == 4"}},
	{"docs/failures.md", "unanswered, for 130 s at most", []string{"appliance/relay: dialMax == 130*time.Second"}},
	{"docs/failover.md", "is judged after 300 ms", []string{"appliance/kept/claim.go ~ endSettles = 300 * time.Millisecond"}},
	{"docs/operating.md", "before it ends, within 2 s", []string{"appliance: endLimit == 2*time.Second"}},
	{"docs/takeover.md", "twice more within 0.6 s", []string{"appliance/comeback.go ~ {600 * time.Millisecond, 300 * time.Millisecond},"}},
	{"docs/services.md", "The active connects to a server every `health.interval` (5 s)", []string{"appliance/config: DefaultHealthInterval == 5*time.Second"}},
	{"docs/services.md", "waits until a canary is open (300 ms at most)", []string{"appliance/kept: lineWait == 300*time.Millisecond"}},
	{"docs/services.md", "holds two idle connections, *canaries*, to each server", []string{"appliance/health: canaries == 2"}},
	{"docs/services.md", "a server that ends idle connections within ten seconds", []string{"appliance/health: canaryYoung == 10*time.Second"}},
	{"docs/services.md", "Linux answers twice a second, so with more ends than that some wait for up to half a second", []string{"appliance/health: askSpacing > time.Second/2 && askSpacing < time.Second*6/10"}},
	{"docs/services.md", "`limits.log` per connection (16 MiB)", []string{"appliance/config: DefaultLog == 16*MiB"}},
	{"docs/services.md", "A configuration has at most 1024 services", []string{"appliance/config: maxServices == 1024"}},
	{"docs/operating.md", "silent one after `failure_timeout` (100 ms)", []string{"appliance/config: DefaultFailureTimeout == 100*time.Millisecond"}},
	{"docs/operating.md", "silent for `pair.start_empty_after` (10 s)", []string{"appliance/config: DefaultStartEmptyAfter == 10*time.Second"}},
	{"docs/operating.md", "asks by itself after `keepalive.idle` (2 h)", []string{"appliance/config: DefaultKeepaliveIdle == 2*time.Hour"}},
	{"docs/operating.md", "(0.5 s by default)", []string{"replication/roles/alone.go ~ return 10*c.Heartbeat + mute + 200*millis"}},
	{"docs/failures.md", "`failure_timeout` and 200 ms: 0.5 s)", []string{"replication/roles/alone.go ~ return 10*c.Heartbeat + mute + 200*millis"}},
	{"docs/failures.md", "`failure_timeout` less 2 % after it has *sent*", []string{"replication: clockMargin == 50"}},
	{"docs/failures.md", "so at least 2 ms later with the default", []string{"appliance/config: DefaultFailureTimeout/50 == 2*time.Millisecond"}},
	{"docs/failures.md", "Of 256 handshakes per listening address something is remembered, of 64 in one network", []string{"appliance/config: DefaultHalfOpen == 256 && DefaultHalfOpenSource == 64"}},
	{"docs/failures.md", "drops first SYNs beyond 2000 a second", []string{"tun: pressureEach == 2000"}},
	{"docs/failures.md", "20 000 a second of the others get in", []string{"tun: pressureFull == 20000"}},
	{"docs/roles.md", "+ failure_timeout - 2 %", []string{"replication: clockMargin == 50"}},
	{"docs/takeover.md", "six times in a second", []string{"tun/announce.go ~ 0, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond,", "tun/announce.go ~ 500 * time.Millisecond, time.Second,"}},
	{"docs/takeover.md", "empties them into a tunnel to the peer (VXLAN, `tun/tunnel.go`), for 500 ms", []string{"tun: keeperLife == 500*time.Millisecond"}},
	{"docs/troubleshooting.md", "announcing again, four times a second at most", []string{"tun: defendEvery == time.Second/4"}},
	{"docs/troubleshooting.md", "is logged once a minute per source, for 8 sources; other lines 60 times a minute each", []string{"internal/loglimit: maxSources == 8 && maxLines == 60 && period == time.Minute"}},
	{"docs/steering.md", "**What must see packets keeps them.** Once a second", []string{"tun: lookEvery == time.Second"}},
	{"docs/deploy.md", "room for 32 768 neighbours", []string{"images/machine/prepare.go ~ {\"net/ipv4/neigh/default/gc_thresh3\", \"32768\"}", "images/machine/prepare.go ~ {\"net/ipv6/neigh/default/gc_thresh3\", \"32768\"}"}},
	{"docs/deploy.md", "starts the machine again after ten seconds", []string{"images/machine/prepare.go ~ {\"kernel/panic\", \"10\"}"}},
	{"docs/deploy.md", "called `org.lockstep.control.0` leads to", []string{"images/machine/port.go ~ portName = \"org.lockstep.control.0\""}},
	{"docs/deploy.md", "an appliance that does not run for `failure_timeout` (100 ms)", []string{"appliance/config: DefaultFailureTimeout == 100*time.Millisecond"}},
	{"docs/deploy.md", "`limits.memory` (1 GiB by default)", []string{"appliance/config: DefaultMemory == GiB"}},
	{"SAFETY.md", "(by 2 %, for the clocks)", []string{"replication: clockMargin == 50"}},
	{"SAFETY.md", "a probe is served in between (10 ms and two round trips", []string{"appliance/health: settle == 10*time.Millisecond"}},
	{"SAFETY.md", "with `http` an end between two messages is judged only after 300 ms", []string{"appliance/kept/claim.go ~ endSettles = 300 * time.Millisecond"}},
	{"SAFETY.md", "nothing that stands still for 5 s after a fault's end", []string{"internal/storm/load.go ~ int(5 * time.Second / lookEvery)"}},
	{"SAFETY.md", "An ACK that waits for an answer** (at most 40 ms,", []string{"stack: delayMax == 40*time.Millisecond"}},
	{"SAFETY.md", "with one segment in 2^23", []string{"stack/cookie.go ~ right once in 2^23"}},
	{"ARCHITECTURE.md", "waits for up to 40 ms for the answer", []string{"stack: delayMax == 40*time.Millisecond"}},
	{"ARCHITECTURE.md", "pending for 100 ms", []string{"replication/limits.go ~ def(&l.ShipAfter, 100*millisecond)"}},
	{"ARCHITECTURE.md", "Rules at priority 7400", []string{"appliance: rulePriority == 7400 && routeTable == 7400"}},
	{"ARCHITECTURE.md", "a superpacket of up to 64 KB", []string{"stack: gsoMax == 65535"}},
	{"ARCHITECTURE.md", "protocol 76,", []string{"tun: routeProtocol == 76"}},
	{"ARCHITECTURE.md", "four batches are in flight", []string{"replication/limits.go ~ def(&l.MaxOutstanding, 4)"}},
}

// TestFacts holds the figures that are listed here to the code: all rows of docs/limits.md, and some
// of other pages.
func TestFacts(t *testing.T) {
	c := newConstants()
	pages := documents(t)
	for _, f := range facts {
		page := strings.Join(strings.Fields(pages[f.page]), " ")
		if !strings.Contains(page, strings.Join(strings.Fields(f.says), " ")) {
			t.Errorf("%s does not say %q any more: mend facts_test.go with it", f.page, f.says)
		}
		for _, why := range f.since {
			if file, text, ok := strings.Cut(why, " ~ "); ok {
				if !strings.Contains(read(t, file), text) {
					t.Errorf("%s says %q, which %s is to show, and that has no %q", f.page, f.says, file, text)
				}
				continue
			}
			if !c.holds(t, why) {
				t.Errorf("%s says %q, and that is not so: %s", f.page, f.says, why)
			}
		}
	}
}

// The test of the test: a figure that is not so is found.
func TestFactsRefuse(t *testing.T) {
	c := newConstants()
	if c.holds(t, "stack: pendingMax == 33") || !c.holds(t, "stack: pendingMax == 32") {
		t.Error("constants are not what they are")
	}
}

// Every row of the limits is held to the code.
func TestLimitsAreFacts(t *testing.T) {
	digit := regexp.MustCompile(`\d`)
	for _, row := range table(t, read(t, "docs/limits.md"), "A limit on everything, and what happens at it. Those that can be configured are in `lockstep.example.yaml`.") {
		line := "| " + strings.Join(row, " | ") + " |"
		held := false
		for _, f := range facts {
			held = held || f.page == "docs/limits.md" && strings.Contains(line, f.says)
		}
		if !held && digit.MatchString(row[1]) {
			t.Errorf("no fact holds this limit to the code: %s", line)
		}
	}
}
