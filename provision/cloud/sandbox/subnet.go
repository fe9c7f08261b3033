package sandbox

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// maxHosts have addresses .11 to .250 in the fleet's subnet.
const maxHosts = 240

func networkOf(fleet string) string { return "mobyfs-sandbox-" + fleet }

// makeNetwork makes the fleet's network if it is not there, and tells its subnet in the fleet it returns.
func (u *raising) makeNetwork(ctx context.Context, f Fleet) (Fleet, error) {
	there, err := lines(ctx, "network", "ls", "-q", "--filter", "name=^"+f.Network+"$")
	if err != nil {
		return f, err
	}
	if len(there) > 0 {
		f.Subnet, err = subnetOf(ctx, f.Network)
		return f, err
	}
	want := f.Subnet // that of a fleet whose network was lost
	if want == "" {
		want = u.Subnet
	}
	for {
		taken, err := takenSubnets(ctx)
		if err != nil {
			return f, err
		}
		if f.Subnet, err = chooseSubnet(want, taken); err != nil {
			return f, err
		}
		_, err = docker(ctx, "network", "create", "--subnet", f.Subnet, "--label", labelFleet+"="+f.Name, f.Network)
		if err == nil {
			u.madeNet = true
			return f, nil
		}
		if want != "" || !strings.Contains(err.Error(), "overlaps") { // another fleet was faster
			return f, err
		}
	}
}

// withAddresses gives host i, counted from 0, the address .11 + i of the fleet's subnet; the first ten are left to
// gateways and guests.
func (f Fleet) withAddresses() (Fleet, error) {
	p, err := parseSubnet(f.Subnet)
	if err != nil {
		return f, err
	}
	f.Hosts = slices.Clone(f.Hosts)
	for i := range f.Hosts {
		a := p.Addr().As4()
		a[3] += byte(11 + i)
		f.Hosts[i].Address = netip.AddrFrom4(a).String()
	}
	return f, nil
}

// chooseSubnet returns want if it is free, or the first free 10.77.x.0/24 if want is empty.
func chooseSubnet(want string, taken []netip.Prefix) (string, error) {
	if want != "" {
		p, err := parseSubnet(want)
		if err != nil {
			return "", err
		}
		if t, ok := overlapping(p, taken); ok {
			return "", mobyfs.Errorf(mobyfs.CodeExists, "subnet %s overlaps with %s, which this machine uses", p, t).
				WithHint("name another with --subnet, or none: then a free one is chosen")
		}
		return p.String(), nil
	}
	for x := range 256 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(x), 0}), 24)
		if _, ok := overlapping(p, taken); !ok {
			return p.String(), nil
		}
	}
	return "", mobyfs.Errorf(mobyfs.CodeExists, "no subnet 10.77.x.0/24 is free on this machine").
		WithHint("name one with --subnet")
}

func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() || p.Bits() < 8 || p.Bits() > 24 || p != p.Masked() {
		return p, mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the subnet of a fleet", s).
			WithHint("use an IPv4 network of 256 addresses or more, such as 10.77.5.0/24")
	}
	return p, nil
}

func overlapping(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if p.Overlaps(t) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// takenSubnets are those of Docker's networks and of the machine's own interfaces and routes.
func takenSubnets(ctx context.Context) ([]netip.Prefix, error) {
	names, err := lines(ctx, "network", "ls", "--format", "{{.Name}}")
	if err != nil {
		return nil, err
	}
	var taken []netip.Prefix
	for _, name := range names {
		s, err := subnetOf(ctx, name)
		if err != nil && !isGone(err) {
			return nil, err
		}
		if p, err := netip.ParsePrefix(s); err == nil {
			taken = append(taken, p)
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			taken = append(taken, p.Masked())
		}
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, err
	}
	return append(taken, parseRoutes(string(routes))...), nil
}

// subnetOf tells the IPv4 subnet of a network of Docker, or "" if it has none.
func subnetOf(ctx context.Context, network string) (string, error) {
	out, err := docker(ctx, "network", "inspect", "--format", "{{json .IPAM.Config}}", network)
	if err != nil {
		return "", err
	}
	var config []struct{ Subnet string }
	if err := json.Unmarshal(out, &config); err != nil {
		return "", mobyfs.Errorf(mobyfs.CodeInternal, "decode docker network inspect: %w", err)
	}
	for _, c := range config {
		if p, err := netip.ParsePrefix(c.Subnet); err == nil && p.Addr().Is4() {
			return p.String(), nil
		}
	}
	return "", nil
}

// parseRoutes reads the destinations of /proc/net/route, whose numbers are hexadecimal and little-endian. The
// default route takes nothing.
func parseRoutes(table string) []netip.Prefix {
	var found []netip.Prefix
	scanner := bufio.NewScanner(strings.NewReader(table))
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		if len(fields) < 8 {
			continue
		}
		dest, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(dest) != 4 || len(mask) != 4 {
			continue
		}
		ones, _ := net.IPv4Mask(mask[3], mask[2], mask[1], mask[0]).Size()
		if ones > 0 {
			found = append(found, netip.PrefixFrom(netip.AddrFrom4([4]byte{dest[3], dest[2], dest[1], dest[0]}), ones))
		}
	}
	return found
}
