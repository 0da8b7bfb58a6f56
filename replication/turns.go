package replication

// A server that is told a request again, or beside another one, is to be told it at the pace at which the client has: what comes after an answer
// only after it has answered. Some refuse what comes too early (Samba what is encrypted before its login is done, PostgreSQL what comes behind
// its SSLRequest), and where others cut their output depends on it.

// Turn says that the request's bytes from Request on came when Response bytes had been released to the client.
type Turn struct{ Request, Response uint64 }

// Turns are those of one connection, in order. They are at most maxTurns; of more every other one is left out, which only lets bytes go sooner,
// but none of the first ones, which are a handshake's.
type Turns []Turn

const (
	maxTurns  = 512
	keepTurns = 64
)

// Note notes that what follows in the request comes now.
func (t *Turns) Note(request, response uint64) {
	if response == 0 || len(*t) > 0 && (*t)[len(*t)-1].Response >= response {
		return
	}
	if len(*t) >= maxTurns {
		rest := (*t)[:keepTurns]
		for i := keepTurns + 1; i < len(*t); i += 2 {
			rest = append(rest, (*t)[i])
		}
		*t = rest
	}
	*t = append(*t, Turn{request, response})
}

// Forget lets go of those that do not matter to whoever is told the request from off on.
func (t *Turns) Forget(off uint64) {
	n := 0
	for n+1 < len(*t) && (*t)[n+1].Request <= off {
		n++
	}
	*t = (*t)[:copy(*t, (*t)[n:])]
}

// check verifies them against how far both streams are known.
func (t Turns) check(request, response uint64) error {
	var last Turn
	for _, x := range t {
		if x.Request < last.Request || x.Response <= last.Response || x.Request > request || x.Response > response {
			return broken("turn %v behind %v, request up to %d, released %d", x, last, request, response)
		}
		last = x
	}
	return nil
}
