package services

import (
	"testing"
	"time"

	"lockstep/appliance/config"
	"lockstep/internal/lab/labtest"
)

// Icecast fed by ffmpeg, a film and music, while listeners record. The source of the film is told to
// both servers, the source of the music to one. See docs/services.md.
func TestBroadcast(t *testing.T) {
	labtest.RequirePrograms(t, "icecast2:icecast2", "curl:curl", "ffmpeg:ffmpeg", "ffprobe:ffmpeg")
	var (
		listen = service{name: "listen", port: 8000, to: 8000}
		ingest = service{name: "ingest", port: 8001, to: 8000, protection: config.ProtectHot}
		feed   = service{name: "feed", port: 8002, to: 8000}
	)
	var servers [2]*daemon
	b := lay(t, []service{listen, ingest, feed}, func(b *bed) { servers = icecast(b) })
	films, songs, lost := b.load(), b.load(), b.load()
	filmed := films.broadcast("sent", ingest, film)
	played := songs.broadcast("sent", feed, music)
	films.underWay()
	songs.underWay()
	b.onAir(0, film.mount)
	b.onAir(1, film.mount)
	b.onAir(0, music.mount)
	var tapes []tape
	for _, sent := range []tape{filmed, played} {
		tapes = append(tapes, lost.record("curl", listen, sent), lost.play("ffmpeg", listen, sent))
	}
	lost.underWay()

	var before []time.Duration // how far the tapes had come
	t.Run("appliance killed", func(t *testing.T) {
		for _, c := range tapes {
			before = append(before, b.until(c))
		}
		b.Kill(b.a)
		b.goOn(films, songs, lost) // nobody notices
		// The standby has told s2 the film again from its begin.
		b.Await("s2 has the film again", func() bool { return b.Kept("b", ingest.name).InStep == 2 })
	})
	t.Run("server killed", func(t *testing.T) {
		servers[0].kill()
		// The listeners are told that it is over, and so is the source under gateway.
		for _, c := range lost.clients {
			t.Logf("%s: %v; %s", c.name, lost.wait(c), c.err)
		}
		if err := songs.wait(played.client); err == nil {
			t.Error("the source under gateway has lost its server and noticed nothing")
		}
		// The film goes on with the other server for whoever comes again; the music, when its source
		// has come again.
		again, songs := b.load(), b.load()
		watching := again.record("curl again", listen, filmed)
		replayed := songs.broadcast("sent again", feed, music)
		songs.underWay()
		b.onAir(1, music.mount)
		listening := again.record("curl again", listen, replayed)
		again.underWay()
		b.goOn(films, songs, again)
		filmed.end(films)
		replayed.end(songs)
		for _, c := range again.clients {
			if err := again.wait(c); err != nil {
				t.Errorf("%s: %v\n%s", c.name, err, c.err)
			}
		}
		// Until the server's death nobody has missed anything, in spite of the appliance's death.
		var until time.Duration
		for i, c := range tapes {
			h := b.check(c)
			if h.from >= before[i] || h.to <= before[i] {
				t.Errorf("%s was not listening to %s when the appliance died, at %v", c.name, c.mount, before[i])
			}
			if c.mount == film.mount {
				until = max(until, h.to)
			}
		}
		h := b.check(watching)
		t.Logf("who watched at s1 until %v and came again has missed %v", until, h.from-until)
		b.check(listening)
		if k := b.sound("b", ingest); k.Failovers+k.Switched == 0 {
			t.Error("the source under hot was not continued by the other server")
		}
	})
}
