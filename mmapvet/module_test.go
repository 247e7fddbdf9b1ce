package mmapvet_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// wants are the comments that say what analysistest is to find.
var wants = regexp.MustCompile("(?m) *// want .*$")

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// localReplace makes a go.mod of testdata one that works elsewhere.
func localReplace(t *testing.T, mod []byte) []byte {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(mod, []byte("../.."), []byte(root), 1)
}

// module makes a module with the files of a package, and returns its directory.
func module(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(data(t), name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), localReplace(t, b))
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), []byte(text))
	}
	return dir
}
