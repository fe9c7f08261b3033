package store

import (
	"slices"

	"github.com/mobyfs/mobyfs"
)

// Budget is what is under way of something of which there may be only so much at once. Whoever begins takes a place in
// the transaction that begins, and gives it back in the one that ends; so the count is right whichever process counts.
type Budget struct {
	Running []mobyfs.OperationID `json:"running"`
}

// TakePlace takes a place under each of the budgets for an operation, of which each may have so many, and reports false,
// having written nothing, if one is full. An operation that has a place keeps it. A place can't be given back in the
// transaction that takes it.
func TakePlace(tx *Tx, id mobyfs.OperationID, most map[string]int) (bool, error) {
	taken := map[string]Budget{}
	for name, n := range most {
		b, err := Budgets.Get(tx, name)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return false, err
		}
		if slices.Contains(b.Running, id) {
			continue
		}
		if len(b.Running) >= n {
			return false, nil
		}
		b.Running = append(slices.Clone(b.Running), id)
		taken[name] = b
	}
	for name, b := range taken {
		if err := Budgets.Put(tx, name, b); err != nil {
			return false, err
		}
	}
	return true, nil
}

// GivePlace gives the places of an operation back, as far as it has them.
func GivePlace(tx *Tx, id mobyfs.OperationID, names ...string) error {
	for _, name := range names {
		b, err := Budgets.Get(tx, name)
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			continue
		}
		if err != nil {
			return err
		}
		i := slices.Index(b.Running, id)
		if i < 0 {
			continue
		}
		if b.Running = slices.Delete(slices.Clone(b.Running), i, i+1); len(b.Running) == 0 {
			err = Budgets.Delete(tx, name)
		} else {
			err = Budgets.Put(tx, name, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
