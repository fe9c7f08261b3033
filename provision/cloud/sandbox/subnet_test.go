package sandbox

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func prefixes(texts ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, t := range texts {
		p = append(p, netip.MustParsePrefix(t))
	}
	return p
}

func TestSubnetIsTheFirstThatNothingOnTheMachineUses(t *testing.T) {
	for _, tc := range []struct {
		want  string
		taken []netip.Prefix
		got   string
		code  mobyfs.Code
	}{
		{"", nil, "10.77.0.0/24", ""},
		{"", prefixes("172.17.0.0/16", "192.168.1.0/24"), "10.77.0.0/24", ""},
		{"", prefixes("10.77.0.0/24", "10.77.1.128/25"), "10.77.2.0/24", ""},
		{"", prefixes("10.77.0.0/17"), "10.77.128.0/24", ""},
		{"", prefixes("10.0.0.0/8"), "", mobyfs.CodeExists},
		{"10.0.5.0/24", prefixes("10.77.0.0/24"), "10.0.5.0/24", ""},
		{"10.77.0.0/16", prefixes("10.77.9.0/24"), "", mobyfs.CodeExists},
	} {
		got, err := chooseSubnet(tc.want, tc.taken)
		if got != tc.got || mobyfs.CodeOf(err) != tc.code {
			t.Errorf("want %q, taken %v: got %q, %v; want %q, code %q", tc.want, tc.taken, got, err, tc.got, tc.code)
		}
	}
}

func TestHostsHaveTheAddressesFromElevenOn(t *testing.T) {
	f, err := Fleet{Subnet: "10.77.4.0/24", Hosts: make([]Host, maxHosts)}.withAddresses()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{f.Hosts[0].Address, f.Hosts[1].Address, f.Hosts[maxHosts-1].Address}
	if d := cmp.Diff([]string{"10.77.4.11", "10.77.4.12", "10.77.4.250"}, got); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
}

func TestRoutesOfTheMachine(t *testing.T) {
	const table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" +
		"eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" +
		"tun0\t00074D0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	if d := cmp.Diff(prefixes("172.17.0.0/16", "10.77.7.0/24"), parseRoutes(table), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}
