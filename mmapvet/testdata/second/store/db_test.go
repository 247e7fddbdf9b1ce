package store

import (
	"errors"
	"testing"

	"github.com/mmarinus/mmap"

	"data/proof"
)

var sink byte

// record is a file of one record, with the length of the file in front.
const record = "\x00\x00\x00\x00\x00\x00\x00\x00magical \x05\x00\x00\x00key=v"

func database(t *testing.T, text string) *DB {
	t.Helper()
	db, err := OpenDB(proof.File(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestBytes: what is returned leads into the mapping, which is closed then.
func TestBytes(t *testing.T) {
	for name, get := range map[string]func(db *DB) ([]byte, error){
		"Peek":  func(db *DB) ([]byte, error) { return db.Peek([]byte("key=")) },
		"Magic": (*DB).Magic,
	} {
		text := []byte(record)
		text[0] = byte(len(record))
		proof.Gone(t, name, func() func() {
			db := database(t, string(text))
			defer db.Close()
			b, err := get(db)
			if err != nil || len(b) == 0 {
				t.Fatal(name, b, err)
			}
			return func() { sink = b[0] }
		})
	}
}

func TestBusy(t *testing.T) {
	db := database(t, "")
	if err := db.CompactIfSparse(); !errors.Is(err, mmap.ErrBusy) {
		t.Error("CompactIfSparse: ", err)
	}
	if err := db.Compact(); err != nil {
		t.Error(err)
	}
	if _, err := db.Checksum(); err != errNotFound {
		t.Error("Checksum: ", err)
	}
	if err := db.Compact(); !errors.Is(err, mmap.ErrBusy) {
		t.Error("the pin of Checksum: ", err)
	}
}
