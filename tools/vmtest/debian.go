//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var kernelPart = regexp.MustCompile(`Depends: (linux-(?:image|binary|modules)-\S+)`)

// fetch unpacks a package of a Debian release into the cache, unless it is
// there, and the parts of a kernel that it depends on: its name has no version.
// apt keeps to directories of its own: this machine may be another processor's,
// release's or user's.
func fetch(arch, release, name string) (dir string, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(cache, "mmap-vmtest", release+"-"+arch+"-"+name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintf(os.Stderr, "vmtest: fetching %s of Debian %s for %s into %s\n", name, release, arch, dir)
	work := dir + ".new"
	defer func() {
		os.RemoveAll(work)
		if err != nil {
			err = fmt.Errorf("%w\nfetching takes apt, dpkg, the package debian-archive-keyring and the way to deb.debian.org (apt heeds http_proxy)", err)
		}
	}()
	for _, d := range []string{"lists/partial", "cache/archives/partial", "deb", "root"} {
		if err := os.MkdirAll(filepath.Join(work, d), 0o755); err != nil {
			return "", err
		}
	}
	source := fmt.Sprintf("deb [arch=%s signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian %s main\n", arch, release)
	if err := os.WriteFile(filepath.Join(work, "sources.list"), []byte(source), 0o644); err != nil {
		return "", err
	}
	apt := func(tool string, args ...string) (string, error) {
		for _, option := range []string{
			"Dir::Etc::SourceList=" + work + "/sources.list", "Dir::Etc::SourceParts=/dev/null", "Dir::State=" + work, "Dir::State::status=/dev/null",
			"Dir::Cache=" + work + "/cache", "APT::Architecture=" + arch, "APT::Architectures::=" + arch, "APT::Sandbox::User=root",
			"Acquire::Languages=none", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false", "Acquire::Retries=3",
		} {
			args = append(args, "-o", option)
		}
		return run(work+"/deb", tool, args...)
	}
	if _, err := apt("apt-get", "update", "-qq", "--error-on=any"); err != nil {
		return "", err
	}
	packages := []string{name}
	for i := 0; i < len(packages); i++ {
		depends, err := apt("apt-cache", "depends", packages[i])
		if err != nil {
			return "", err
		}
		for _, m := range kernelPart.FindAllStringSubmatch(depends, -1) {
			if !slices.Contains(packages, m[1]) {
				packages = append(packages, m[1])
			}
		}
	}
	if _, err := apt("apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		return "", err
	}
	debs, _ := filepath.Glob(work + "/deb/*.deb")
	for _, deb := range debs {
		if _, err := run(work, "dpkg", "-x", deb, work+"/root"); err != nil {
			return "", err
		}
	}
	return dir, os.Rename(work+"/root", dir)
}

// run returns what a command prints. Its error has what it complained about.
func run(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:min(3, len(cmd.Args))], " "), err, complaint.Bytes())
	}
	return string(out), err
}

// modules returns kernel modules with all that they depend on, in the order in
// which they can be loaded. What is no module is taken to be in the kernel.
func modules(root string, names ...string) ([][]byte, error) {
	files := map[string]string{}
	for _, lib := range []string{root + "/lib/modules", root + "/usr/lib/modules"} {
		filepath.Walk(lib, func(path string, _ os.FileInfo, _ error) error {
			name, _, _ := strings.Cut(filepath.Base(path), ".ko")
			files[strings.ReplaceAll(name, "-", "_")] = path
			return nil
		})
	}
	var all [][]byte
	var add func(name string) error
	add = func(name string) error {
		path := files[strings.ReplaceAll(name, "-", "_")]
		if delete(files, strings.ReplaceAll(name, "-", "_")); path == "" {
			return nil
		}
		module, err := os.ReadFile(path)
		if strings.HasSuffix(path, ".xz") {
			var out string
			out, err = run(".", "xz", "-dc", path)
			module = []byte(out)
		}
		if err != nil {
			return err
		}
		e, err := elf.NewFile(bytes.NewReader(module))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		info, err := e.Section(".modinfo").Data()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, field := range strings.Split(string(info), "\x00") {
			if needs, ok := strings.CutPrefix(field, "depends="); ok && needs != "" {
				for _, name := range strings.Split(needs, ",") {
					if err := add(name); err != nil {
						return err
					}
				}
			}
		}
		all = append(all, module)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}
