package arbiter_test

import (
	"fmt"

	"lockstep/replication/arbiter"
)

// Two appliances and a witness decide who speaks. A program would give the messages to a network,
// write Persist to a disk first, and pass in its own clock.
func Example() {
	const millisecond = 1_000_000
	voters := map[string]*arbiter.Core{}
	members := map[string]arbiter.Member{}
	names := []string{"a", "b", "w"}
	for i, name := range names {
		members[name] = arbiter.Member{Node: name, Boot: uint64(i + 1)}
		v, err := arbiter.New(arbiter.Config{Self: members[name], Appliances: [2]string{"a", "b"}, Witness: "w"})
		if err != nil {
			panic(err)
		}
		voters[name] = v
	}
	var now arbiter.Nanos
	dead := ""
	lease := map[string]arbiter.Nanos{}
	active := func() string {
		for _, name := range names {
			if name != dead && lease[name] > now {
				return name
			}
		}
		return "nobody"
	}
	pass := func(d arbiter.Nanos) {
		for end := now + d; now < end; now += millisecond {
			for _, name := range names {
				if name == dead {
					continue
				}
				voters[name].Tick(now)
				ready := voters[name].Ready()
				lease[name] = ready.Lease
				for _, m := range ready.Messages {
					if m.To != dead {
						if err := voters[m.To].Step(now, members[name], m.Data); err != nil {
							panic(err)
						}
					}
				}
			}
		}
	}

	pass(500 * millisecond)
	first := active()
	other := map[string]string{"a": "b", "b": "a"}[first]
	voters[other].SetAble(now, 1, true)           // it could go on with what it holds,
	voters[first].AddStandby(now, members[other]) // and that is everything
	pass(100 * millisecond)
	fmt.Println("one speaks:", first != "nobody")

	dead = first // says nothing any more
	pass(50 * millisecond)
	fmt.Println("within its lease:", active())
	pass(1000 * millisecond)
	fmt.Println("after it the standby speaks:", active() == other)
	// Output:
	// one speaks: true
	// within its lease: nobody
	// after it the standby speaks: true
}
