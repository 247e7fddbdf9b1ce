//go:build linux && !(386 || amd64 || arm || arm64 || loong64 || ppc64 || ppc64le || riscv64 || s390x)

package sys

// The compiler says so for any other processor: each needs its form of mmap(2), and has to
// be tested.
const _ = package_mmap_is_for_386_amd64_arm_arm64_loong64_ppc64_ppc64le_riscv64_and_s390x
