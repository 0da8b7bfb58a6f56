package bench

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"lockstep/internal/lab"
)

// A crowd is very many idle connections of the kernel's, of which each process holds as many as its limit of
// descriptors allows: sockets without goroutines, buffers or timers, so that a million fits beside the pair.
// Whenever it is asked, every connection sends a question and must get the answer that belongs to it.

const (
	crowdServerRole = "bench-crowd-server"
	crowdClientRole = "bench-crowd-client"

	crowdPort      = 90
	crowdFirstPort = 10000 // of a client's address
	crowdMost      = 50000 // connections of one client's address
	// crowdSpare are the descriptors of a process that are no connections.
	crowdSpare = 64
	// crowdWindow is how many connections of a process are opening or asking at a time.
	crowdWindow = 256
	// crowdPatience is how long one may take to open, or to answer.
	crowdPatience = 60 * time.Second

	questionSize = 8  // number of the connection (4), its port (2), number of the question (2)
	answerSize   = 16 // the question, the client's address as the server sees it (4), its port (2), questions so far (2)
)

// crowdClientArgs of crowdClientRole.
type crowdClientArgs struct {
	From   netip.Addr     `json:"from"`
	Target netip.AddrPort `json:"target"`
	Count  int            `json:"count"`
}

// Orders to a crowd's client: open them all with a first question each, or ask all once more.
const (
	crowdOpen = "open"
	crowdAsk  = "ask"
)

// crowdEvent is what a crowd's client says about once a second, and at the end of an order.
type crowdEvent struct {
	Answered int           `json:"answered"` // of this order
	Lost     int           `json:"lost"`     // since the beginning
	Error    string        `json:"error,omitempty"`
	Slowest  time.Duration `json:"slowest"` // answer of this order
	Done     bool          `json:"done"`
}

// runCrowdServer listens, beside others of its kind on the same port, and answers questions.
func runCrowdServer(ctx context.Context, r *lab.RoleIO) error {
	runtime.GOMAXPROCS(1)
	ln, err := crowdListen(crowdPort)
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	s := &crowdServer{ln: ln, ep: ep}
	if err := s.watch(ln); err != nil {
		return err
	}
	if err := r.Emit(crowdEvent{Done: true}); err != nil {
		return err
	}
	events := make([]unix.EpollEvent, 512)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(ep, events, 200)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == ln {
				err = s.accept()
			} else {
				s.answer(int(e.Fd))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func crowdListen(port int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	for _, o := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o, 1); err != nil {
			return 0, fmt.Errorf("share port %d: %w", port, err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return 0, fmt.Errorf("bind port %d: %w", port, err)
	}
	if err := unix.Listen(fd, 1<<16); err != nil {
		return 0, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fd, nil
}

type crowdServer struct {
	ln, ep int
	peers  []crowdPeer // by descriptor
}

type crowdPeer struct {
	addr  [4]byte
	port  uint16
	asked uint16
	got   uint8
	buf   [questionSize]byte
}

func (s *crowdServer) watch(fd int) error {
	if err := unix.EpollCtl(s.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

func (s *crowdServer) accept() error {
	for {
		fd, sa, err := unix.Accept4(s.ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		}
		for len(s.peers) <= fd {
			s.peers = append(s.peers, make([]crowdPeer, 1024)...)
		}
		s.peers[fd] = crowdPeer{}
		if a, ok := sa.(*unix.SockaddrInet4); ok {
			s.peers[fd] = crowdPeer{addr: a.Addr, port: uint16(a.Port)}
		}
		if err := s.watch(fd); err != nil {
			return err
		}
	}
}

// answer takes what has come on a connection, or its end.
func (s *crowdServer) answer(fd int) {
	p := &s.peers[fd]
	for {
		n, err := unix.Read(fd, p.buf[p.got:])
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			return
		}
		if n <= 0 {
			unix.Close(fd)
			return
		}
		if p.got += uint8(n); p.got < questionSize {
			continue
		}
		p.got = 0
		p.asked++
		var b [answerSize]byte
		copy(b[:], p.buf[:])
		copy(b[8:], p.addr[:])
		binary.BigEndian.PutUint16(b[12:], p.port)
		binary.BigEndian.PutUint16(b[14:], p.asked)
		if n, err := unix.Write(fd, b[:]); err != nil || n != len(b) {
			unix.Close(fd) // an empty send buffer takes so little
			return
		}
	}
}

// runCrowdClient holds the connections of one address.
func runCrowdClient(ctx context.Context, r *lab.RoleIO) error {
	runtime.GOMAXPROCS(1)
	c := &crowdClient{said: time.Now(), emit: r.Emit}
	if err := json.Unmarshal(r.Args, &c.args); err != nil {
		return fmt.Errorf("decode arguments: %w", err)
	}
	c.fds = make([]int32, c.args.Count)
	for i := range c.fds {
		c.fds[i] = -1
	}
	for {
		var order string
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-r.Messages:
			if !ok {
				return nil
			}
			if err := json.Unmarshal(m, &order); err != nil || order != crowdOpen && order != crowdAsk {
				return fmt.Errorf("unknown order %s", m)
			}
		}
		if err := c.do(ctx, order == crowdOpen); err != nil {
			return err
		}
	}
}

type crowdClient struct {
	args crowdClientArgs
	fds  []int32 // by number of the connection; -1: it is lost, or not open yet
	emit func(any) error
	said time.Time
	now  crowdEvent // what is said of the present order

	round uint16
	wait  []unix.PollFd
	who   []crowdWait // of wait
}

// crowdWait is a connection that is opening, or waits for its answer.
type crowdWait struct {
	number int
	asked  bool
	since  time.Time
}

// do carries out an order.
func (c *crowdClient) do(ctx context.Context, open bool) error {
	c.round++
	c.now = crowdEvent{Lost: c.now.Lost, Error: c.now.Error}
	for next := 0; next < len(c.fds) || len(c.wait) > 0; {
		if ctx.Err() != nil {
			return nil
		}
		for ; next < len(c.fds) && len(c.wait) < crowdWindow; next++ {
			c.begin(next, open)
		}
		if _, err := unix.Poll(c.wait, 1000); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		now := time.Now()
		for i := 0; i < len(c.wait); {
			if c.look(i, now) {
				i++
				continue
			}
			last := len(c.wait) - 1
			c.wait[i], c.who[i] = c.wait[last], c.who[last]
			c.wait, c.who = c.wait[:last], c.who[:last]
		}
		if now.Sub(c.said) >= time.Second {
			c.said = now
			if err := c.emit(c.now); err != nil {
				return err
			}
		}
	}
	c.now.Done = true
	return c.emit(c.now)
}

// begin a connection, or its question.
func (c *crowdClient) begin(number int, open bool) {
	w := crowdWait{number: number, since: time.Now()}
	var err error
	if open {
		err = c.connect(number)
	} else if c.fds[number] < 0 {
		return // lost before
	} else {
		w.asked = true
		err = c.ask(number)
	}
	if err != nil {
		c.lose(number, err)
		return
	}
	events := int16(unix.POLLOUT)
	if w.asked {
		events = unix.POLLIN
	}
	c.wait = append(c.wait, unix.PollFd{Fd: c.fds[number], Events: events})
	c.who = append(c.who, w)
}

func (c *crowdClient) connect(number int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	c.fds[number] = int32(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: c.args.From.As4(), Port: crowdFirstPort + number}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	t := c.args.Target
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: t.Addr().As4(), Port: int(t.Port())}); !errors.Is(err, unix.EINPROGRESS) {
		return os.NewSyscallError("connect", err)
	}
	return nil
}

func (c *crowdClient) question(number int) (q [questionSize]byte) {
	binary.BigEndian.PutUint32(q[:], uint32(number))
	binary.BigEndian.PutUint16(q[4:], uint16(crowdFirstPort+number))
	binary.BigEndian.PutUint16(q[6:], c.round)
	return q
}

func (c *crowdClient) ask(number int) error {
	q := c.question(number)
	if n, err := unix.Write(int(c.fds[number]), q[:]); err != nil || n != len(q) {
		return fmt.Errorf("ask: wrote %d bytes: %w", n, err)
	}
	return nil
}

// look at what has become of a connection that was waited for; it reports whether to go on waiting.
func (c *crowdClient) look(i int, now time.Time) (more bool) {
	p, w := &c.wait[i], &c.who[i]
	fd := int(p.Fd)
	switch {
	case p.Revents == 0:
		if now.Sub(w.since) < crowdPatience {
			return true
		}
		what := "no connection"
		if w.asked {
			what = "no answer"
		}
		c.lose(w.number, fmt.Errorf("%s within %v", what, crowdPatience))
		return false
	case !w.asked:
		e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && e != 0 {
			err = fmt.Errorf("connect: %w", unix.Errno(e))
		}
		if err == nil {
			err = c.ask(w.number)
		}
		if err != nil {
			c.lose(w.number, err)
			return false
		}
		w.asked, p.Events = true, unix.POLLIN
		return true
	}
	var b [answerSize + 1]byte
	n, err := unix.Read(fd, b[:])
	if err := c.right(w.number, b[:max(n, 0)], err); err != nil {
		c.lose(w.number, err)
		return false
	}
	c.now.Answered++
	c.now.Slowest = max(c.now.Slowest, now.Sub(w.since))
	return false
}

// right compares an answer with the one that belongs to the connection.
func (c *crowdClient) right(number int, b []byte, err error) error {
	q := c.question(number)
	var want [answerSize]byte
	copy(want[:], q[:])
	from := c.args.From.As4()
	copy(want[8:], from[:])
	binary.BigEndian.PutUint16(want[12:], uint16(crowdFirstPort+number))
	binary.BigEndian.PutUint16(want[14:], c.round)
	switch {
	case err != nil:
		return fmt.Errorf("read: %w", err)
	case len(b) == 0:
		return errors.New("the server has closed it")
	case string(b) != string(want[:]):
		return fmt.Errorf("answer %x in place of %x", b, want)
	}
	return nil
}

func (c *crowdClient) lose(number int, err error) {
	if fd := int(c.fds[number]); fd >= 0 {
		unix.Close(fd)
		c.fds[number] = -1
	}
	c.now.Lost++
	if c.now.Error == "" {
		c.now.Error = fmt.Sprintf("%v port %d: %v", c.args.From, crowdFirstPort+number, err)
	}
}
