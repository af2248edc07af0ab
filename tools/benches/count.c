// Counts the instructions that a program executes under qemu-user (a TCG plugin, API version 1).
//
//   cc -shared -fPIC -o count.so count.c
//   qemu-aarch64 -plugin ./count.so PROGRAM      prints the count on standard error
//
// The prototypes stand here since Debian packages no header for them.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct block;
struct instruction;
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct block *));
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int qemu_plugin_version = 1;
static uint64_t executed;

static void translated(uint64_t id, struct block *block) {
    // 0: add to a 64-bit number each time the block runs.
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &executed, qemu_plugin_tb_n_insns(block));
}

static void finished(uint64_t id, void *nothing) {
    fprintf(stderr, "%llu\n", (unsigned long long)executed);
}

EXPORTED int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
