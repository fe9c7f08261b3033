package pki

import "testing"

func TestWhatAnIntermediateVouchesForCantBeChanged(t *testing.T) {
	a, err := NewAuthority(t.TempDir()+"/pki", "shop")
	if err != nil {
		t.Fatal(err)
	}
	node, operator := a.Issuer(IssuerNode), a.Issuer(IssuerOperator)
	sig, err := node.Vouch("eviction", []byte("node/h1"))
	if err != nil {
		t.Fatal(err)
	}
	if !VouchedBy(node.CertPEM, "shop", "eviction", []byte("node/h1"), sig) {
		t.Error("it does not know its own")
	}
	for what, passes := range map[string]bool{
		"another text":         VouchedBy(node.CertPEM, "shop", "eviction", []byte("node/h2"), sig),
		"another purpose":      VouchedBy(node.CertPEM, "shop", "ticket", []byte("node/h1"), sig),
		"another cluster":      VouchedBy(node.CertPEM, "lab", "eviction", []byte("node/h1"), sig),
		"another intermediate": VouchedBy(operator.CertPEM, "shop", "eviction", []byte("node/h1"), sig),
		"no signature":         VouchedBy(node.CertPEM, "shop", "eviction", []byte("node/h1"), nil),
		"no certificate":       VouchedBy(nil, "shop", "eviction", []byte("node/h1"), sig),
	} {
		if passes {
			t.Errorf("%s passes", what)
		}
	}
}
