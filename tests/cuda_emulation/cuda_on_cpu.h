// CPU emulation of CUDA C++ kernels, for tests: the text of a kernel runs on the CPU, one fiber for each CUDA thread.
//
// What it knows: grids and blocks of threads, static and dynamic shared memory (which begins as NaN, never as zeros),
// __syncthreads and warp collectives with masks, atomics, the rounding intrinsics, float flushing of denormals. Threads
// run one at a time, in order, reversed or shuffled (coc_set). What it finds: wrong results, barriers that some threads
// do not reach, lanes that meet in different collectives, values from lanes that left.
//
// What it cannot know: timing; the order of memory between warps that really run at once (other than through the thread
// sanitizer); registers, spills, alignment of vector loads, texture and constant caches; the last bits of exp and of
// other functions that are not correctly rounded. threadIdx and the rest are macros, so a kernel may not use their
// names for anything else. Built by emulated_cupy.py beside it.
#pragma once
#include <sys/mman.h>
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <xmmintrin.h>
#include <pmmintrin.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/asan_interface.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateBenignRaceSized(const char *, int, const volatile void *, long, const char *);
#endif
#if !defined(COC_UCONTEXT) && !(defined(__x86_64__))
#define COC_UCONTEXT
#endif
#define COC_NOSAN __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

// CUDA's vector types.
struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
#define COC_VEC(T, N)                                                                                                  \
    struct N##1 { T x; };                                                                                              \
    struct alignas(2 * sizeof(T)) N##2 { T x, y; };                                                                    \
    struct N##3 { T x, y, z; };                                                                                        \
    struct alignas(sizeof(T) > 4 ? 16 : 4 * sizeof(T)) N##4 { T x, y, z, w; };                                         \
    static inline N##2 make_##N##2(T a, T b) { return {a, b}; }                                                        \
    static inline N##4 make_##N##4(T a, T b, T c, T d) { return {a, b, c, d}; }
COC_VEC(float, float) COC_VEC(int, int) COC_VEC(double, double) struct uint4 {
    unsigned x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};

// A thread of CUDA is a fiber: it runs until it waits at a barrier or a warp collective, or leaves; then the next does.
// All is in plain arrays, and not watched by sanitizers: they are to see the kernel's memory only.
namespace coc {
enum State : unsigned char { FRESH, RUN, WAIT_BLOCK, WAIT_WARP, DONE };
enum Op : unsigned char { SYNCWARP, SHFL, BALLOT };
struct Thread {
    uint3 tid;
    State st;
    Op op;
    int lin, line, src, fiber;
    unsigned mask;
    uint64_t val, res;
    bool ok;
};
struct Fiber {
    void *sp = nullptr;
    ucontext_t uc;
    char *stack = nullptr;
    int thread = -1;
    void *fake = nullptr;
    void *tsan = nullptr;
};
struct Live {
    Thread *b, *e;
    COC_NOSAN Thread *begin() { return b; }
    COC_NOSAN Thread *end() { return e; }
};
inline Thread *running = nullptr;
inline uint3 block_index{};
inline dim3 block_size, grid_size;
constexpr int MOST_THREADS = 1024;
inline Thread threads[MOST_THREADS];
inline Fiber fibers[MOST_THREADS];
inline int order[MOST_THREADS], free_fibers[MOST_THREADS], free_count,
    fiber_count;                                   // plain arrays: no instrumented std code
inline unsigned waiting_lanes[32], gone_lanes[32]; // per warp: lanes that wait in a warp call, lanes that left
inline Fiber launcher;
inline int thread_count, alive, waiting, next_place;
inline unsigned seed = 0;
inline std::string err;
inline char *dynamic_shared = nullptr;
inline size_t dynamic_bytes = 0;
inline void (*body)(void *) = nullptr;
inline void *body_arg = nullptr;
inline int strict_exit = 0;
inline unsigned long long switches = 0, steps = 0;
inline char tsbars[4096 * 64];
inline char *tsbar = nullptr;
inline char tsdone;
constexpr size_t STACK = 256 * 1024;
inline const void *main_bottom = nullptr;
inline size_t main_size = 0;

// Switching from one fiber to another: by hand on x86-64 (a tenth of ucontext's time), else by ucontext.
COC_NOSAN inline Live live() { return {threads, threads + thread_count}; }
#ifndef COC_UCONTEXT
extern "C" void coc_switch(void **save, void *to);
__asm__(
    ".pushsection .text\n.weak coc_switch\n.type coc_switch,@function\ncoc_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n.size coc_switch,.-coc_switch\n.popsection\n");
#endif
COC_NOSAN inline void swap_to(Fiber &from, Fiber &to, bool dying = false) {
    ++switches;
#if defined(__SANITIZE_ADDRESS__)
    bool m = &to == &launcher;
    __sanitizer_start_switch_fiber(dying ? nullptr : &from.fake, m ? main_bottom : to.stack, m ? main_size : STACK);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to.tsan, 1 /* no happens-before */);
#endif
#ifdef COC_UCONTEXT
    swapcontext(&from.uc, &to.uc);
#else
    coc_switch(&from.sp, to.sp);
#endif
#if defined(__SANITIZE_ADDRESS__)
    const void *b;
    size_t s;
    __sanitizer_finish_switch_fiber(from.fake, &b, &s);
    if (&from != &launcher && !main_bottom) {
        main_bottom = b;
        main_size = s;
    }
#endif
}
// What to say when something is wrong.
COC_NOSAN inline const char *opname(const Thread &t) {
    return t.st == WAIT_BLOCK ? "__syncthreads"
           : t.op == SYNCWARP ? "__syncwarp"
           : t.op == SHFL     ? "__shfl_*_sync"
                              : "a vote/ballot";
}
COC_NOSAN inline std::string where(const Thread &t) {
    char b[160];
    const char *s = t.st == DONE ? "exited" : t.st == FRESH ? "not started" : t.st == RUN ? "running" : "waits at ";
    snprintf(b, sizeof b, "block(%u,%u,%u) thread(%u,%u,%u) %s%s", block_index.x, block_index.y, block_index.z, t.tid.x,
             t.tid.y, t.tid.z, s, t.st == WAIT_BLOCK || t.st == WAIT_WARP ? opname(t) : "");
    std::string r = b;
    if (t.st == WAIT_BLOCK || t.st == WAIT_WARP) {
        snprintf(b, sizeof b, " line %d", t.line);
        r += b;
    }
    return r;
}
[[noreturn]] COC_NOSAN inline void fail(std::string m) { // give up on the launch: back to the launcher
    if (err.empty()) err = std::move(m);
    Fiber &f = fibers[running->fiber];
    swap_to(f, launcher);
    abort();
}
// The scheduler.
COC_NOSAN inline int pick() { // next thread that can go on, -1: none
    for (int k = 0; k < thread_count; ++k) {
        int p = next_place + k;
        if (p >= thread_count) p -= thread_count;
        int t = order[p];
        if (threads[t].st == RUN || (threads[t].st == FRESH && free_count)) {
            next_place = p;
            return t;
        }
    }
    return -1;
}
void fiber_main();
COC_NOSAN inline void start_fiber(Fiber &f) {
#ifdef COC_UCONTEXT
    getcontext(&f.uc);
    f.uc.uc_stack.ss_sp = f.stack;
    f.uc.uc_stack.ss_size = STACK;
    f.uc.uc_link = nullptr;
    makecontext(&f.uc, fiber_main, 0);
#else
    void **s = (void **)(((uintptr_t)f.stack + STACK) & ~(uintptr_t)15);
    *--s = nullptr;
    *--s = (void *)fiber_main;
    for (int i = 0; i < 6; ++i)
        *--s = nullptr;
    f.sp = s;
#endif
}
COC_NOSAN inline void go(Fiber &from, int t, bool dying = false) { // switch to thread t (starting it if fresh)
    Thread &n = threads[t];
    if (n.st == FRESH) {
        n.fiber = free_fibers[--free_count];
        n.st = RUN;
        Fiber &f = fibers[n.fiber];
        f.thread = t;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(f.stack, STACK);
#endif
        start_fiber(f);
    }
    running = &n;
    swap_to(from, fibers[n.fiber], dying);
}
COC_NOSAN inline std::string deadlock(const char *why) {
    std::string m = why;
    int shown = 0;
    const Thread *last = nullptr;
    for (Thread &t : live()) {
        if (last && last->st == t.st && last->line == t.line) continue;
        last = &t;
        m += "\n  " + where(t);
        if (++shown == 6) break;
    }
    return m;
}
COC_NOSAN inline void yield() {
    Fiber &f = fibers[running->fiber];
    int t = pick();
    if (t < 0)
        fail(deadlock("deadlock: no thread can go on (divergent barrier or warp mask names lanes that never come)"));
    Thread *me = running;
    if (&threads[t] == me) return;
    go(f, t);
    running = me;
}
// Barriers and warp collectives: who has come, who never will, and whether they mean the same one.
COC_NOSAN inline void check_block(bool by_exit) {
    if (!alive || waiting != alive) return;
    int line = -1;
    const Thread *a = nullptr;
    for (Thread &t : live())
        if (t.st == WAIT_BLOCK) {
            if (!a) {
                a = &t;
                line = t.line;
            } else if (t.line != line)
                fail("divergent __syncthreads: " + where(*a) + "; " + where(t));
        }
    if ((strict_exit & 1) && alive != thread_count) {
        const Thread *d = nullptr;
        for (Thread &t : live())
            if (t.st == DONE) {
                d = &t;
                break;
            }
        fail("__syncthreads after some threads left: " + where(*a) + "; " + where(*d));
    }
    for (Thread &t : live())
        if (t.st == WAIT_BLOCK) t.st = RUN;
    waiting = 0;
}
COC_NOSAN inline void check_warp(int w0) { // release every complete collective of the warp starting at w0
    int n = thread_count - w0 < 32 ? thread_count - w0 : 32;
    Thread *L = &threads[w0];
    unsigned &ww = waiting_lanes[w0 / 32];
    for (int i = 0; i < n; ++i)
        if (L[i].st == WAIT_WARP) {
            unsigned m = L[i].mask, have = 0, gone = 0;
            bool all = true;
            for (int j = 0; j < n; ++j)
                if (m >> j & 1) {
                    if (L[j].st == DONE) {
                        gone |= 1u << j;
                        continue;
                    }
                    if (L[j].st != WAIT_WARP) {
                        all = false;
                        break;
                    }
                    if (L[j].mask != m || L[j].op != L[i].op || L[j].line != L[i].line) {
                        fail("lanes of one mask meet in different warp calls: " + where(L[i]) + "; " + where(L[j]));
                    }
                    have |= 1u << j;
                }
            if (!all) continue;
            unsigned vote = 0;
            for (int j = 0; j < n; ++j)
                if ((have >> j & 1) && L[j].val) vote |= 1u << j;
            for (int j = 0; j < n; ++j)
                if (have >> j & 1) {
                    if (L[j].op == SHFL) {
                        L[j].ok = have >> L[j].src & 1;
                        L[j].res = L[j].ok ? L[L[j].src].val : ~0ull;
                    } // poison: NaN
                    else
                        L[j].res = vote;
                }
            for (int j = 0; j < n; ++j)
                if (have >> j & 1) L[j].st = RUN;
            ww &= ~have;
        }
}
COC_NOSAN inline void fiber_main() {
    Fiber &me = fibers[running->fiber];
#if defined(__SANITIZE_ADDRESS__)
    {
        const void *b;
        size_t s;
        __sanitizer_finish_switch_fiber(nullptr, &b, &s);
        if (!main_bottom) {
            main_bottom = b;
            main_size = s;
        }
    }
#endif
    for (;;) {
        ++steps;
#if defined(__SANITIZE_THREAD__)
        ;
#endif
        body(body_arg);
#if defined(__SANITIZE_THREAD__)
        __tsan_release(&tsdone);
#endif
        running->st = DONE;
        --alive;
        int w0 = running->lin & ~31;
        gone_lanes[w0 / 32] |= 1u << (running->lin & 31);
        if (waiting_lanes[w0 / 32]) check_warp(w0);
        check_block(true);
        int t = -1;
#if !defined(__SANITIZE_THREAD__)
        // a thread that never waited leaves its fiber to the next fresh one: no switch at all
        for (int k = 0; k < thread_count; ++k) {
            int p = next_place + k;
            if (p >= thread_count) p -= thread_count;
            int c = order[p];
            if (threads[c].st == FRESH) {
                t = c;
                next_place = p;
                break;
            }
            if (threads[c].st == RUN) break;
        }
        if (t >= 0) {
            threads[t].fiber = running->fiber;
            threads[t].st = RUN;
            me.thread = t;
            running = &threads[t];
            continue;
        }
#endif
#if defined(__SANITIZE_THREAD__)
        t = pick(); // every CUDA thread keeps a fiber of its own: that is what tsan tells apart
        if (t < 0) {
            if (alive) err = deadlock("deadlock: the threads left wait for ones that exited or never come");
            swap_to(me, launcher, true);
        }
#else
        free_fibers[free_count++] = running->fiber;
        t = pick();
        if (t < 0) {
            if (alive) err = deadlock("deadlock: the threads left wait for ones that exited or never come");
            swap_to(me, launcher, true);
        }
        if (threads[t].st == FRESH) {
            --free_count; // start it here, on my own stack
            threads[t].fiber = running->fiber;
            threads[t].st = RUN;
            me.thread = t;
            running = &threads[t];
            continue;
        }
#endif
        go(me, t, true);
        abort();
    }
}
COC_NOSAN inline void block_barrier(int line) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(tsbar);
#endif
    running->st = WAIT_BLOCK;
    running->line = line;
    ++waiting;
    check_block(false);
    if (running->st != RUN)
        yield();
    else if (seed) { /* last arrival: let the others go first under a shuffled order */
        int p = next_place;
        (void)p;
        yield();
    }
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(tsbar);
#endif
}
COC_NOSAN inline uint64_t warp_op(Op op, unsigned mask, uint64_t val, int src, int line) {
    int lane = running->lin & 31, w0 = running->lin & ~31;
    if (!(mask >> lane & 1))
        fail("a thread calls a warp operation without its own bit in the mask: line " + std::to_string(line) + ", " +
             where(*running));
#if defined(__SANITIZE_THREAD__)
    if (op == SYNCWARP) __tsan_release(tsbar + 1 + w0 / 32); // only __syncwarp orders memory
#endif
    running->st = WAIT_WARP;
    running->op = op;
    running->mask = mask;
    running->val = val;
    running->src = src;
    running->line = line;
    waiting_lanes[w0 / 32] |= 1u << lane;
    unsigned full = thread_count - w0 < 32 ? (1u << (thread_count - w0)) - 1 : ~0u;
    if (((waiting_lanes[w0 / 32] | gone_lanes[w0 / 32]) & mask & full) == (mask & full)) check_warp(w0);
    if (running->st != RUN) yield();
#if defined(__SANITIZE_THREAD__)
    if (op == SYNCWARP) __tsan_acquire(tsbar + 1 + w0 / 32);
#endif
    return running->res;
}
template <class T> inline T shfl(unsigned mask, T v, int src, int line) {
    static_assert(sizeof(T) <= 8, "shfl type");
    uint64_t b = 0;
    memcpy(&b, &v, sizeof v);
    b = warp_op(SHFL, mask, b, src, line);
    T r;
    memcpy(&r, &b, sizeof r);
    return r;
}
inline int seg(int lane, int width) { return lane & ~(width - 1); }
extern "C" {
extern char __start_coc_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_coc_shared[] __attribute__((weak, visibility("hidden")));
}
COC_NOSAN inline void poison_shared() { // shared memory starts as garbage (NaN), never as zeros
    if (&__start_coc_shared[0])
        for (volatile char *p = __start_coc_shared; p < __stop_coc_shared; ++p)
            *p = (char)0xff;
    for (size_t i = 0; i < dynamic_bytes; ++i)
        ((volatile char *)dynamic_shared)[i] = (char)0xff;
}
COC_NOSAN inline char *new_stack() {
    return (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}
COC_NOSAN inline unsigned rnd(unsigned &s) {
    s ^= s << 13;
    s ^= s >> 17;
    s ^= s << 5;
    return s;
}
// A launch: the blocks of threads one after the other, in reverse order under a seed.
COC_NOSAN inline const char *launch(const unsigned *g, const unsigned *b, size_t smem) {
    err.clear();
    grid_size = {g[0], g[1], g[2]};
    block_size = {b[0], b[1], b[2]};
    thread_count = b[0] * b[1] * b[2];
    if (thread_count < 1 || thread_count > 1024 || b[2] > 64 || g[1] > 65535 || g[2] > 65535 || !g[0] || !g[1] || !g[2])
        return "invalid launch: grid or block size";
    size_t st = &__start_coc_shared[0] ? __stop_coc_shared - __start_coc_shared : 0;
    (void)st;
    if (smem > 232448) return "invalid launch: more shared memory than any device has";
    for (; fiber_count < thread_count; ++fiber_count)
        fibers[fiber_count].stack = new_stack();
    dynamic_shared = (char *)aligned_alloc(16, (smem + 15) / 16 * 16 + !smem * 16);
    dynamic_bytes = smem;
#if defined(__SANITIZE_ADDRESS__)
    free(dynamic_shared);
    dynamic_shared = (char *)malloc(smem ? smem : 1); // exact size: the redzone starts at its end
#endif
#if defined(__SANITIZE_THREAD__)
    launcher.tsan = __tsan_get_current_fiber();
    if (strict_exit & 2) {
        size_t st = __stop_coc_shared - __start_coc_shared;
        if (st) AnnotateBenignRaceSized(__FILE__, __LINE__, __start_coc_shared, st, "shared");
        AnnotateBenignRaceSized(__FILE__, __LINE__, dynamic_shared, smem, "shared");
    }
#endif
#if defined(__x86_64__) && !defined(COC_NO_FTZ)
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040); // CuPy compiles with -ftz=true
#endif
    size_t nb = (size_t)g[0] * g[1] * g[2];
    unsigned s = seed * 2654435761u + 12345;
    for (size_t k = 0; k < nb && err.empty(); ++k) {
        size_t q = seed == 0 ? k : nb - 1 - k; // blocks in reverse order under a seed
        block_index = {unsigned(q % g[0]), unsigned(q / g[0] % g[1]), unsigned(q / g[0] / g[1])};
        poison_shared();
        free_count = 0;
        for (int i = thread_count - 1; i >= 0; --i)
            free_fibers[free_count++] = i;
        for (int i = 0; i < thread_count; ++i) {
            Thread &t = threads[i];
            t = Thread();
            t.lin = i;
            t.fiber = -1;
            order[i] = seed == 1 ? thread_count - 1 - i : i;
            t.tid = {i % b[0], i / b[0] % b[1], i / b[0] / b[1]};
        }
        if (seed > 1)
            for (int i = thread_count - 1; i > 0; --i) {
                int j = rnd(s) % (i + 1), o = order[i];
                order[i] = order[j];
                order[j] = o;
            }
        alive = thread_count;
        waiting = 0;
        next_place = 0;
        for (int i = 0; i < 32; ++i)
            waiting_lanes[i] = gone_lanes[i] = 0;
#if defined(__SANITIZE_THREAD__)
        tsbar = tsbars + k % 4096 * 64;
        __tsan_release(tsbar);
        for (int i = 0; i < thread_count; ++i)
            fibers[i].tsan = __tsan_create_fiber(0);
#endif
        go(launcher, order[0]);
#if defined(__SANITIZE_THREAD__)
        if (!(strict_exit & 2))
            __tsan_acquire(&tsdone);
        else
            for (int i = 0; i < thread_count; ++i) {
                munmap(fibers[i].stack, STACK);
                fibers[i].stack = new_stack();
            }
        for (int i = 0; i < thread_count; ++i)
            __tsan_destroy_fiber(fibers[i].tsan);
#endif
    }
#if defined(__x86_64__) && !defined(COC_NO_FTZ)
    _mm_setcsr(csr);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(&tsdone);
#endif
    free(dynamic_shared);
    dynamic_shared = nullptr;
    return err.empty() ? nullptr : err.c_str();
}
// kernel call from an array of pointers to arguments, and its signature as text
template <class T> constexpr char code() {
    return std::is_pointer_v<T>          ? 'P'
           : std::is_same_v<T, bool>     ? '?'
           : std::is_floating_point_v<T> ? (sizeof(T) == 4 ? 'f' : 'd')
           : std::is_integral_v<T>       ? (sizeof(T) == 8   ? (std::is_signed_v<T> ? 'q' : 'Q')
                                            : sizeof(T) == 4 ? (std::is_signed_v<T> ? 'i' : 'I')
                                            : sizeof(T) == 2 ? 'h'
                                                             : 'b')
                                         : 'x';
}
template <class T> using elem = std::remove_cv_t<std::remove_pointer_t<T>>;
template <class T> std::string sig1() {
    if constexpr (std::is_pointer_v<T>) {
        std::string r = "P";
        if constexpr (std::is_void_v<elem<T>>)
            r += 'v';
        else
            r += code<elem<T>>();
        r += std::is_const_v<std::remove_pointer_t<T>> ? 'r' : 'w';
        return r + " ";
    } else
        return std::string(1, code<T>()) + " ";
}
template <class... A> struct Call {
    void (*f)(A...);
    void **a;
    template <size_t... I> void run(std::index_sequence<I...>) {
        f(*(std::remove_cv_t<std::remove_reference_t<A>> *)a[I]...);
    }
    static void go(void *p) {
        Call *c = (Call *)p;
        c->run(std::index_sequence_for<A...>());
    }
};
template <class... A>
const char *run_kernel(void (*f)(A...), const unsigned *g, const unsigned *b, size_t smem, void **args) {
    Call<A...> c{f, args};
    body = &Call<A...>::go;
    body_arg = &c;
    return launch(g, b, smem);
}
template <class... A> const char *sig(void (*)(A...)) {
    static std::string s = (sig1<A>() + ... + std::string());
    return s.c_str();
}
} // namespace coc
#define COC_EXPORT(id, ...)                                                                                            \
    extern "C" const char *coc_launch_##id(const unsigned *g, const unsigned *b, size_t s, void **a) {                 \
        return coc::run_kernel(&__VA_ARGS__, g, b, s, a);                                                              \
    }                                                                                                                  \
    extern "C" const char *coc_sig_##id() { return coc::sig(&__VA_ARGS__); }
extern "C" inline __attribute__((used)) void coc_set(unsigned seed, int strict) {
    coc::seed = seed;
    coc::strict_exit = strict;
}
extern "C" inline __attribute__((used)) unsigned long long coc_switches() {
    auto r = coc::switches;
    coc::switches = 0;
    return r;
}

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __constant__ static
#define __launch_bounds__(...)
#ifdef COC_PLAIN_SHARED
#define __shared__ static
#else
#define __shared__ static __attribute__((section("coc_shared")))
#endif
#define threadIdx (coc::running->tid)
#define blockIdx (coc::block_index)
#define blockDim (coc::block_size)
#define gridDim (coc::grid_size)
#define warpSize 32
#define COC_L int line = __builtin_LINE()
inline void __syncthreads(COC_L) { coc::block_barrier(line); }
inline void __syncwarp(unsigned m = ~0u, COC_L) { coc::warp_op(coc::SYNCWARP, m, 0, 0, line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline int coc_lane() { return coc::running->lin & 31; }
template <class T> T __shfl_sync(unsigned m, T v, int src, int w = 32, COC_L) {
    int l = coc_lane();
    return coc::shfl(m, v, coc::seg(l, w) + (src & (w - 1)), line);
}
template <class T> T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, COC_L) {
    int l = coc_lane(), s = l - (int)d;
    return coc::shfl(m, v, s < coc::seg(l, w) ? l : s, line);
}
template <class T> T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, COC_L) {
    int l = coc_lane(), s = l + (int)d;
    return coc::shfl(m, v, s >= coc::seg(l, w) + w ? l : s, line);
}
template <class T> T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, COC_L) {
    int l = coc_lane(), s = l ^ x;
    return coc::shfl(m, v, s >= coc::seg(l, w) + w ? l : s, line);
}
inline unsigned __ballot_sync(unsigned m, int p, COC_L) {
    return (unsigned)coc::warp_op(coc::BALLOT, m, p != 0, 0, line);
}
inline int __any_sync(unsigned m, int p, COC_L) { return __ballot_sync(m, p, line) != 0; }
inline int __all_sync(unsigned m, int p, COC_L) { return __ballot_sync(m, !p, line) == 0; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; ++i)
        r |= (x >> i & 1) << (31 - i);
    return r;
}
template <class T> T __ldg(const T *p) { return *p; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) {
    volatile float r = a * b;
    return r;
}
inline float __fadd_rn(float a, float b) {
    volatile float r = a + b;
    return r;
}
inline float __fsub_rn(float a, float b) {
    volatile float r = a - b;
    return r;
}
inline double __dmul_rn(double a, double b) {
    volatile double r = a * b;
    return r;
}
inline double __dadd_rn(double a, double b) {
    volatile double r = a + b;
    return r;
}
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float rsqrtf(float a) { return 1.f / sqrtf(a); }
inline float __expf(float a) { return expf(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float f) {
    unsigned u;
    memcpy(&u, &f, 4);
    return u;
}
inline int __float_as_int(float f) {
    int u;
    memcpy(&u, &f, 4);
    return u;
}
inline float __uint_as_float(unsigned u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline double __longlong_as_double(long long u) {
    double f;
    memcpy(&f, &u, sizeof f);
    return f;
}
inline float __int_as_float(int u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
template <class T> inline std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) { return b < a ? b : a; }
template <class T> inline std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) { return a < b ? b : a; }
template <class T, class U, class F> T coc_rmw(T *p, U v, F f) {
    T o, n;
    __atomic_load(p, &o, __ATOMIC_RELAXED);
    do
        n = f(o, (T)v);
    while (!__atomic_compare_exchange(p, &o, &n, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return o;
}
template <class T, class U> T atomicAdd(T *p, U v) {
    return coc_rmw(p, v, [](T a, T b) { return T(a + b); });
}
template <class T, class U> T atomicMax(T *p, U v) {
    return coc_rmw(p, v, [](T a, T b) { return a < b ? b : a; });
}
template <class T, class U> T atomicMin(T *p, U v) {
    return coc_rmw(p, v, [](T a, T b) { return b < a ? b : a; });
}
template <class T, class U> T atomicOr(T *p, U v) {
    return coc_rmw(p, v, [](T a, T b) { return T(a | b); });
}
template <class T, class U> T atomicExch(T *p, U v) {
    return coc_rmw(p, v, [](T, T b) { return b; });
}
template <class T> T atomicCAS(T *p, T c, T v) {
    __atomic_compare_exchange(p, &c, &v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return c;
}
