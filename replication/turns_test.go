package replication

import "testing"

// What the client had when it sent more is known to the standby, also if both are told in one batch.
func TestTurnOfOneBatch(t *testing.T) {
	p, a, s := openLogged(t, Limits{})
	must(t, a.Data(p.now, 1, Request, 0, []byte("first"), false))
	must(t, a.Received(p.now, 1, Response, 100, false))
	must(t, a.Released(p.now, 1, Released{End: 100, Sum: sumOf(100)}))
	must(t, a.Data(p.now, 1, Request, 5, []byte("second"), false))
	p.run(t)
	if got := take(t, s).Log.Turns; len(got) != 1 || got[0] != (Turn{5, 100}) {
		t.Errorf("turns: %v", got)
	}
}

// Of many the first ones stay, and what is left lets nobody have more than was asked for before; what is below an offset goes.
func TestTurnsAreBounded(t *testing.T) {
	var turns Turns
	for i := range uint64(10 * maxTurns) {
		turns.Note(10*i, i)
	}
	if len(turns) > maxTurns || turns[0] != (Turn{10, 1}) || turns[keepTurns-1] != (Turn{10 * keepTurns, keepTurns}) || turns.check(100*maxTurns, 10*maxTurns) != nil {
		t.Fatalf("%d turns, the first %v; %v", len(turns), turns[:keepTurns], turns.check(100*maxTurns, 10*maxTurns))
	}
	for _, x := range turns {
		if x.Request != 10*x.Response {
			t.Fatalf("a turn that was none: %v", x)
		}
	}
	if turns.Forget(35); turns[0] != (Turn{30, 3}) {
		t.Errorf("from 35 on the first is %v", turns[0])
	}
}
