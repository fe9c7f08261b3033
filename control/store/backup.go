package store

import "time"

// Kinds of records about backups.
const (
	KindBackup     Kind = "backup"
	KindBackupTurn Kind = "backup-turn"
)

var (
	// Backups are those that were made and are kept still, by their IDs.
	Backups = Table[Backup]{Kind: KindBackup, prefix: "backup/"}
	// BackupTurns has one record, at TheBackupTurn.
	BackupTurns = Table[BackupTurn]{Kind: KindBackupTurn, prefix: "backup-turn/"}
)

// TheBackupTurn is the ID of the one turn to make backups.
const TheBackupTurn = "turn"

// BackupTurn says who makes the next backup. It guards nothing: it keeps two from making the same one.
type BackupTurn struct {
	By string    `json:"by"` // name of a control
	At time.Time `json:"at"`
}

// Backup is a backup that was made.
type Backup struct {
	ID       string    `json:"id"`
	By       string    `json:"by"` // name of the control that made it
	MadeAt   time.Time `json:"made_at"`
	Bytes    int64     `json:"bytes"`  // of the file
	Digest   string    `json:"digest"` // SHA-256 of the file, in hex
	Records  int64     `json:"records"`
	Revision int64     `json:"revision"`
	Epoch    uint32    `json:"epoch"`
	Asked    []string  `json:"asked"`            // nodes that are asked to keep a copy
	Held     []string  `json:"held"`             // nodes that said that they have one
	Warned   bool      `json:"warned,omitempty"` // it was told that too few have it
}
