package pair

import (
	"net/netip"
	"os"

	"lockstep/appliance/config"
	"lockstep/internal/lab"
)

// Config is what both appliances have in the standard topology, with the defaults of the product but
// for metrics, which are off. The caller adds what it needs, such as times, and hands it to New.
func Config(name string, services ...config.Service) *config.Config {
	c := config.Default()
	c.Pair.Name = name
	c.Pair.Members = map[string]netip.AddrPort{"a": netip.MustParseAddrPort("10.30.0.1:7400"), "b": netip.MustParseAddrPort("10.30.0.2:7400")}
	c.Networks.Front.Interface, c.Networks.Back.Interface = lab.FrontIf, lab.BackIf
	c.Networks.Back.Gateway = []netip.Prefix{netip.MustParsePrefix(lab.BackGateway4 + "/24"), netip.MustParsePrefix(lab.BackGateway6 + "/64")}
	if s := os.Getenv(steeringEnv); s != "" {
		c.Networks.Steering = config.Steering(s)
	}
	c.Services = services
	c.Metrics = netip.AddrPort{}
	return c
}

// pathEnv is the variable of the environment that sets every service's path in tests: whatever is tried with the
// one can be tried with the other.
const pathEnv = "LOCKSTEP_TEST_PATH"

// PathIsSet tells whether the environment says which path is to be tried.
func PathIsSet() bool { return os.Getenv(pathEnv) != "" }

// steeringEnv is the same of networks.steering.
const steeringEnv = "LOCKSTEP_TEST_STEERING"

// Service is one with the product's defaults. The addresses are constants of the caller's: a wrong one
// panics.
func Service(name string, listen, servers []string) config.Service {
	s := config.DefaultService(name)
	s.Listen, s.Servers = addresses(listen), addresses(servers)
	if p := os.Getenv(pathEnv); p != "" {
		s.Path = config.Path(p)
	}
	return s
}

// SetPath sets the path of services, unless it is empty.
func SetPath(services []config.Service, p config.Path) {
	for i := range services {
		if p != "" {
			services[i].Path = p
		}
	}
}

func addresses(texts []string) (all []netip.AddrPort) {
	for _, t := range texts {
		all = append(all, netip.MustParseAddrPort(t))
	}
	return all
}

// Reach lets the appliances ping the client, and these hosts of the back network.
func Reach(c *config.Config, back ...string) {
	c.Networks.Front.Reach = []netip.Addr{netip.MustParseAddr(lab.Client4)}
	c.Networks.Back.Reach = nil
	for _, host := range back {
		c.Networks.Back.Reach = append(c.Networks.Back.Reach, netip.MustParseAddr(host))
	}
}

// witnessAddr is where the witness of the standard topology listens.
func witnessAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(lab.Witness4), WitnessPort)
}
