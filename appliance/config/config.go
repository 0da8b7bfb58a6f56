// Package config owns the configuration contract: the keys of the file, their
// defaults, and every rule a configuration must satisfy before anything is
// started. It turns a file and the environment into one plain Config value.
//
// It must not know what the configured parts do: it opens no socket, touches
// no interface and starts nothing. Only load.go and encode.go know the library
// of the file's format; everything else is plain structs and pure functions, except
// Check, which looks at the machine and only ever warns.
package config

import (
	"net/netip"
	"time"
)

// Config is a whole, valid configuration: Load and Parse never return one that
// breaks a rule of validate.go. It is read-only once returned and may be shared.
type Config struct {
	Node     string    `yaml:"node,omitempty"` // this appliance's name, one of Pair.Members
	Pair     Pair      `yaml:"pair"`
	Networks Networks  `yaml:"networks"`
	Services []Service `yaml:"services"` // in the file's order, at least one
	Limits   Limits    `yaml:"limits"`
	// Authority is where servers that run under `lockstep wrap` ask.
	Authority Authority      `yaml:"authority"`
	Control   string         `yaml:"control"` // path of the control socket, absolute
	Metrics   netip.AddrPort `yaml:"metrics"` // where Prometheus scrapes; not valid: off
	Log       Log            `yaml:"log"`
}

// Pair describes the two appliances and how they watch each other.
type Pair struct {
	Name           string                    `yaml:"name"`
	Members        map[string]netip.AddrPort `yaml:"members"`         // one (alone) or two, by node name
	Witness        netip.AddrPort            `yaml:"-"`               // not valid: none
	State          string                    `yaml:"state"`           // directory of what this appliance must not forget, absolute
	Identity       string                    `yaml:"identity"`        // directory written by `lockstep keys`
	Heartbeat      time.Duration             `yaml:"heartbeat"`       // 1ms to 10s
	FailureTimeout time.Duration             `yaml:"failure_timeout"` // more than twice Heartbeat, at most 1m
	// StartEmptyAfter is how long whoever may hold connections must be silent before this
	// appliance becomes active without them. At least 1s and 10 FailureTimeout.
	StartEmptyAfter time.Duration `yaml:"start_empty_after,omitempty"`
	Commit          Commit        `yaml:"commit"`
}

// Networks names the two sides of the gateway.
type Networks struct {
	Front Network     `yaml:"front"`
	Back  BackNetwork `yaml:"back"`
	// Ingress says whether packets are refused that can only be forged, by the
	// interface that they come from.
	Ingress Ingress `yaml:"ingress"`
	// Steering says how services' packets come to the process and go from it.
	Steering Steering `yaml:"steering"`
}

// Network is one side of the gateway.
type Network struct {
	Interface string `yaml:"interface"`
	// Reach are hosts that are always there: if none answers any more, the network is
	// taken for down although the carrier is there. Empty: only the carrier counts.
	Reach []netip.Addr `yaml:"reach,omitempty"`
}

// BackNetwork is the servers' side, with the addresses that float.
type BackNetwork struct {
	Network `yaml:",inline"`
	Gateway []netip.Prefix `yaml:"gateway,omitempty"` // address and length; held by the active
}

// Service is one protected TCP service.
type Service struct {
	Name        string           `yaml:"name"`
	Listen      []netip.AddrPort `yaml:"listen,flow"` // virtual addresses, held by the active
	Servers     []netip.AddrPort `yaml:"-"`           // equivalent
	Shares      []Share          `yaml:"-"`           // in the order of Servers; fewer: those have the plain one
	Balance     Balance          `yaml:"balance"`     // which of them a new connection gets
	SlowStart   time.Duration    `yaml:"slow_start"`  // for how long a server that has come back gets less than its share
	Protection  Protection       `yaml:"protection"`
	Protocol    Protocol         `yaml:"protocol"`
	Release     Release          `yaml:"release"`
	Source      Source           `yaml:"source"`
	Path        Path             `yaml:"path"`
	SlowClients SlowClients      `yaml:"slow_clients"`
	TTL         int              `yaml:"ttl,omitempty"`     // of what leaves, on the wire; 0: 64 less the hop that this is
	MinTTL      int              `yaml:"min_ttl,omitempty"` // of clients' packets (RFC 5082); 0: any
	Patience    time.Duration    `yaml:"patience"`          // how long a connection waits for a server that continues it
	Health      Health           `yaml:"health"`
	Keepalive   Keepalive        `yaml:"keepalive"`
	ParkAfter   time.Duration    `yaml:"park_after"` // idle for so long, a connection gives its endpoints back; 0: never
	Limits      ServiceLimits    `yaml:"limits"`
}

// Keepalive says when a client or server that is silent is asked whether it is there.
type Keepalive struct {
	Idle     time.Duration `yaml:"idle"`     // 0: never
	Interval time.Duration `yaml:"interval"` // between two questions
	Count    int           `yaml:"count"`    // so many without an answer: it is dead
}

// Health says how a server is probed. At most one of HTTP and TCP is set; with none
// nothing is probed, for servers that every connection disturbs.
type Health struct {
	Interval time.Duration `yaml:"interval"`
	Timeout  time.Duration `yaml:"timeout"`        // at most Interval
	HTTP     string        `yaml:"http,omitempty"` // path to GET; empty: no HTTP probe
	TCP      bool          `yaml:"tcp"`            // a connection that opens is healthy
	Canary   bool          `yaml:"canary"`         // idle connections are held, which end with the server's process (log, hot)
}

// Off reports whether servers are not probed.
func (h *Health) Off() bool { return h.HTTP == "" && !h.TCP }

// ServiceLimits bound what one service may use.
type ServiceLimits struct {
	Connections int           `yaml:"connections"` // open at a time; beyond it a SYN is dropped and counted
	Log         Size          `yaml:"log"`         // replay log per connection
	Idle        time.Duration `yaml:"idle"`        // a connection without a byte for so long is ended; 0: never
	HalfOpen    int           `yaml:"half_open"`   // handshakes that are remembered; beyond it clients get SYN cookies
	// HalfOpenSource is the same for one network of clients (/24, /64).
	HalfOpenSource int `yaml:"half_open_source"`
}

// Limits bound what all services together may use.
type Limits struct {
	Memory Size `yaml:"memory"` // for what is buffered over all connections, copies and overhead included
}

// Log says what is logged and how.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn, error
	Format string `yaml:"format"` // text, json
}

// Commit says whether an acknowledgement waits for the standby.
type Commit string

// Values of pair.commit.
const (
	CommitSync  Commit = "sync"
	CommitAsync Commit = "async"
)

// Protection says what a service's connections survive.
type Protection string

// Values of services[].protection.
const (
	ProtectGateway Protection = "gateway"
	ProtectLog     Protection = "log"
	ProtectHot     Protection = "hot"
)

// Protocol names the adapter that understands the service's messages.
type Protocol string

// Values of services[].protocol.
const (
	ProtocolRaw  Protocol = "raw"
	ProtocolHTTP Protocol = "http"
)

// Release says whose bytes the client gets when several servers answer.
type Release string

// Values of services[].release.
const (
	ReleasePrimary Release = "primary"
	ReleaseFirst   Release = "first"
)

// Ingress says what is believed of where a packet comes from.
type Ingress string

// Values of Ingress.
const (
	IngressStrict Ingress = "strict"
	IngressAny    Ingress = "any"
)

// Steering is how services' packets come to the process and go from it.
type Steering string

// Values of Steering.
const (
	SteeringAuto  Steering = "auto"  // past routing and packet filter, where the kernel can and nothing else must see them
	SteeringFlows Steering = "flows" // the same, and established connections that are passed on do not come to the process at all
	SteeringRules Steering = "rules" // by routing
)

// Source says whose address the servers see.
type Source string

// Values of services[].source.
const (
	SourceClient  Source = "client"
	SourceGateway Source = "gateway"
)

// Path says whether a service's connections are ended in netstack.
type Path string

// Values of services[].path.
const (
	PathAuto     Path = "auto" // passed on, where nothing of them has to be kept
	PathNetstack Path = "netstack"
)

// SlowClients says what becomes of a connection that is passed on and whose client does not read.
type SlowClients string

// Values of services[].slow_clients.
const (
	SlowWait   SlowClients = "wait"   // its server waits
	SlowBuffer SlowClients = "buffer" // it is ended in netstack from then on, which takes what the server has to say
)

// Defaults of the keys that may be left out; lockstep.example.yaml documents
// them and a test compares the two.
const (
	DefaultIdentity        = "/etc/lockstep/keys"
	DefaultState           = "/var/lib/lockstep"
	DefaultHeartbeat       = 20 * time.Millisecond
	DefaultFailureTimeout  = 100 * time.Millisecond
	DefaultStartEmptyAfter = 10 * time.Second // or 10 FailureTimeout, if that is longer
	DefaultPatience        = 30 * time.Second
	DefaultParkAfter       = 10 * time.Second
	DefaultHealthInterval  = 5 * time.Second
	DefaultHealthTimeout   = 300 * time.Millisecond
	DefaultConnections     = 100_000
	DefaultLog             = 16 * MiB
	DefaultIdle            = 120 * time.Hour
	DefaultHalfOpen        = 256
	DefaultHalfOpenSource  = 64
	DefaultMemory          = 1 * GiB
	DefaultServers         = "/etc/lockstep/servers"
	DefaultControl         = "/run/lockstep/control.sock"
	DefaultMetrics         = "127.0.0.1:9464"
	DefaultLogLevel        = "info"
	DefaultLogFormat       = "text"

	// RFC 1122, 4.2.3.6: two hours or more by default.
	DefaultKeepaliveIdle     = 2 * time.Hour
	DefaultKeepaliveInterval = 75 * time.Second
	DefaultKeepaliveCount    = 9
)

// Default is what holds where a file says nothing: whoever makes a configuration
// in code begins with it, and adds names, addresses and services. StartEmptyAfter
// stays 0 in it, which follows FailureTimeout once the file is read.
func Default() *Config {
	return &Config{
		Pair: Pair{
			Members:  map[string]netip.AddrPort{},
			Identity: DefaultIdentity, State: DefaultState, Heartbeat: DefaultHeartbeat, FailureTimeout: DefaultFailureTimeout,
			Commit: CommitSync,
		},
		Networks:  Networks{Ingress: IngressStrict, Steering: SteeringAuto},
		Limits:    Limits{Memory: DefaultMemory},
		Authority: Authority{Members: map[string]netip.AddrPort{}, Identity: DefaultServers},
		Control:   DefaultControl,
		Metrics:   netip.MustParseAddrPort(DefaultMetrics),
		Log:       Log{Level: DefaultLogLevel, Format: DefaultLogFormat},
	}
}

// DefaultService is the same of a service.
func DefaultService(name string) Service {
	return Service{
		Name: name, Protection: ProtectGateway, Protocol: ProtocolRaw, Release: ReleasePrimary, Source: SourceClient, Path: PathAuto, Balance: BalanceFirst, SlowClients: SlowWait, Patience: DefaultPatience,
		Health:    Health{Interval: DefaultHealthInterval, Timeout: DefaultHealthTimeout, TCP: true, Canary: true},
		Keepalive: Keepalive{Idle: DefaultKeepaliveIdle, Interval: DefaultKeepaliveInterval, Count: DefaultKeepaliveCount}, ParkAfter: DefaultParkAfter,
		Limits: ServiceLimits{Connections: DefaultConnections, Log: DefaultLog, Idle: DefaultIdle, HalfOpen: DefaultHalfOpen, HalfOpenSource: DefaultHalfOpenSource},
	}
}

// DefaultWitness is the same of a witness.
func DefaultWitness() *Witness {
	return &Witness{
		Listen: netip.MustParseAddrPort(DefaultWitnessListen), State: DefaultWitnessState,
		Heartbeat: DefaultHeartbeat, FailureTimeout: DefaultFailureTimeout,
		Log: Log{Level: DefaultLogLevel, Format: DefaultLogFormat},
	}
}

// Peer returns the other appliance's name and address; ok is false when this
// appliance is configured alone.
func (c *Config) Peer() (name string, addr netip.AddrPort, ok bool) {
	for name, addr := range c.Pair.Members {
		if name != c.Node {
			return name, addr, true
		}
	}
	return "", netip.AddrPort{}, false
}

// Appliances are the names of both appliances, the smaller first; ok is false when
// this one is configured alone.
func (c *Config) Appliances() (names [2]string, ok bool) {
	all := sortedKeys(c.Pair.Members)
	if len(all) != 2 {
		return names, false
	}
	return [2]string(all), true
}

// Self returns this appliance's address on the sync network.
func (c *Config) Self() netip.AddrPort { return c.Pair.Members[c.Node] }
