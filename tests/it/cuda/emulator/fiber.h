// Stacks of their own for the threads of a block, and the switch from one to another.
#pragma once
#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the emulation needs a switch of stacks for this CPU"
#endif

// Saves the registers that a call preserves, and where the stack is, in `*from`; goes on where `to` was saved. The modes of
// floating point are the same everywhere, so they stay.
extern "C" void chaski_switch(void **from, void *to);

// A stack that begins `entry` when it is first switched to; `top` is its end, aligned to 16.
inline void *new_fiber(void *top, void (*entry)()) {
  void **sp = static_cast<void **>(top);
#ifdef __x86_64__
  *--sp = nullptr;  // where `entry` would return to: it does not
  *--sp = reinterpret_cast<void *>(entry);
  for (int i = 0; i < 6; i++) *--sp = nullptr;  // rbp, rbx, r12 to r15
#else
  sp -= 20;  // x19 to x30, d8 to d15
  for (int i = 0; i < 20; i++) sp[i] = nullptr;
  sp[11] = reinterpret_cast<void *>(entry);  // x30
#endif
  return sp;
}

#ifdef CHASKI_FIBER_IMPLEMENTATION
#ifdef __x86_64__
__asm__(R"(
.text
.globl chaski_switch
.hidden chaski_switch
.type chaski_switch,@function
chaski_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size chaski_switch,.-chaski_switch
)");
#else
__asm__(R"(
.text
.globl chaski_switch
.hidden chaski_switch
.type chaski_switch,%function
chaski_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size chaski_switch,.-chaski_switch
)");
#endif
#endif
