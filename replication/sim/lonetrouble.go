package sim

// strikeAlone is for what only a world without a witness has.
func (w *world) strikeAlone(h hit) {
	n, o := w.nodes[h.m.id], w.nodes[h.o.id]
	switch h.kind {
	case Unplug:
		w.sever(h)
		w.unplug(n, h.d)
	case BackOnly:
		w.felt(h.d)
		w.unplug(n, h.d)
		w.after(w.between(0, 20*millis), func() { // as fitness.go has it
			if n.alive && w.unplugged[n.id] > 0 && w.unplugged[o.id] == 0 {
				n.shell.loop(func() { n.shell.switchover() })
			}
		})
	case Claim:
		w.claim()
	case Split:
		w.sever(h)
		w.logf("the networks are cut, too")
		w.loneSeen.LANCut++
		w.lanCut++
		w.after(h.d+w.between(0, 200*millis), func() { w.lanCut = max(w.lanCut-1, 0) })
	case Newcomer:
		if h.a == nil {
			return
		}
		w.loneSeen.Newcomer++
		w.other(h.a).machine.crash(false, false)
		w.after(w.between(0, 200*millis), func() {
			if !w.healed {
				h.a.freeze(w.between(50*millis, 2*w.startEmpty))
			}
		})
	case BothFreeze:
		h.m.freeze(h.d)
		h.o.freeze(h.d + w.between(0, 50*millis))
	}
}

// unplug takes the front and the back cable of n for d. It knows.
func (w *world) unplug(n *node, d nanos) {
	w.logf("%s is unplugged for %d ms", n.name, d/millis)
	w.loneSeen.Unplugged++
	w.unplugged[n.id]++
	w.after(d, func() {
		w.unplugged[n.id] = max(w.unplugged[n.id]-1, 0)
		if w.unplugged[n.id] == 0 && n.shell.speaks() {
			n.shell.announce() // as tun does when the carrier is back
		}
	})
}

// claim is one frame of a stranger, perhaps repeated by the network.
func (w *world) claim() {
	w.logf("a stranger claims the addresses")
	w.loneSeen.Claim++
	w.vip = nil
	w.after(1000*millis, w.resolve)
	times := 1
	if w.chance(0.3) {
		times = 2
	}
	for _, n := range w.nodes {
		if !n.alive || w.unplugged[n.id] > 0 {
			continue
		}
		life := n.life
		for range times {
			w.after(w.between(50*micros, millis), func() { n.run(life, func() { n.shell.hears("stranger") }) })
		}
	}
}

// resolve is when the hosts ask anew who has the addresses.
func (w *world) resolve() {
	if w.vip != nil {
		return
	}
	if a := w.serves(); a != nil && !a.frozen && w.unplugged[a.id] == 0 {
		w.vip = a
		return
	}
	w.after(1000*millis, w.resolve)
}
