package demo

// help is what `lockstep demo --help` says.
const help = `Lays out a client, two appliances, a witness and two servers in network namespaces of its own, runs real
transfers through them with idle connections beside, breaks the active appliance or a server in the
middle, and checks every byte.

What can happen to the active:

  kill       its process dies (SIGKILL): its kernel closes the session, the standby knows at once
  freeze     its process stops (SIGSTOP): the standby knows by silence, after failure_timeout; the
             frozen one wakes up a second later and must not say a word
  link-down  all its cables are pulled while it lives
  power-off  the host vanishes: no word of its kernel's, nobody lives on behind dead cables
  partition  it is cut off from the sync network, while it lives and reaches clients and servers:
             its lease ends because nobody confirms it, the standby gets the witness's vote and
             takes over, and the cut-off one must keep quiet
  switchover no fault at all: the active is asked to hand over (lockstep switchover), as before its
             maintenance; afterwards it is the other one's standby

What can happen to the server that serves the connections:

  server-kill     its process dies (SIGKILL): its kernel ends its connections, as if it had finished
  server-freeze   its process stops (SIGSTOP): it falls behind the other one (hot), or does not answer
                  its health check (log). Woken up a second later it must not disturb
  server-restart  there is one server only; it dies, and is started again at once, as in an upgrade

--protection says what connections outlive. gateway: their appliance; log: also their server, a spare or
the restarted one is told the request again, and what it answers is compared with what the client has
got and discarded up to there; hot: two servers are told the request all the time, and one goes on
where the other stopped. The default is gateway where an appliance fails, hot where a server does, and
log for server-restart. --release first sends each byte as soon as either of two servers has sent it.

What is to be told again must be in the log: with log, or with more than one round, an upload may have
512 MiB. Where log is to be shown, the default is therefore one download, of 256 MiB.

With --protection gateway the connections are passed on; with --path netstack they are ended by the appliance (docs/paths.md).

With --rounds N that many failures follow each other at even shares of the transfers. In between,
what has failed is started again, woken, plugged in or healed, joins as the standby, and the demo
waits until the pair is in sync; then the other appliance fails. A server comes back likewise: the demo
waits until it is in step with the other one (hot: it is told everything from the beginning, while the
transfer goes on) or healthy (log); then the other server fails.

With --service the servers and the client are real programs, from Debian's packages: web is nginx, from which
curl downloads a file; stream is Icecast, from which curl plays a stored file at a stream's pace; file is an
rsync daemon and rsync. Fault is server-kill (the default: all processes of the first server, by SIGKILL) or
kill. The file that the client has written is compared with what each server has, and its exit status must be 0.
Gaps are those in the growth of the client's file. Two rsync daemons do not send the same bytes, so file has
--protection gateway only: the appliance's death is unnoticed, but when its server dies rsync is told, loses
its connection (connections_lost counts it), is run again and goes on where it was with the other one. It takes
three times --size in the temporary directory.

With --vm DIR the appliances are virtual machines of the image in DIR (` + "`make image`" + `), run by QEMU with
KVM where that works and by emulation elsewhere; client, servers and witness stay what they are. Faults
are then those of machines:

  power-off  kill -9 of QEMU
  reset      the reset button: the machine starts anew by itself
  shutdown   the power button: the appliance hands over, then the machine switches itself off
  turns      these three, one a round (the default, with three rounds)

It needs Linux and nothing else (with --vm, QEMU): root, or the right to create user namespaces and to open
/dev/net/tun. Nothing of it is left behind (killed by SIGKILL: a temporary directory), nothing outside
its namespaces is touched.

The exit status is 0 only if every connection survived with every byte in its place and the
active, or the server, changed as the fault demands (--service file: see above).`

const examples = `  lockstep demo
  lockstep demo --fault freeze --direction upload --size 4GiB
  lockstep demo --rounds 4 --size 4GiB
  lockstep demo --fault power-off --rounds 2
  lockstep demo --fault server-kill
  lockstep demo --fault server-kill --protection log
  lockstep demo --fault server-freeze --release first --direction download
  lockstep demo --fault server-restart
  lockstep demo --service web
  lockstep demo --service stream --fault kill
  lockstep demo --connections 10000 --json | jq .longest_gap_ms`
