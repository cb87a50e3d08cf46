// What the x86 paths share for class bf16. Their lanes are defined before.

// Two factors of a pair are added one after the other, the odd one first, between flush_begin and flush_end.
static inline vf vf_dot(vf y, vf x, vf acc) {
  return vf_fma(vf_low(y), vf_low(x), vf_fma(vf_high(y), vf_high(x), acc));
}
static inline vf vf_even(vf y, vf x, vf acc) { return vf_fma(vf_low(y), vf_low(x), acc); }
static inline vf vf_odd(vf y, vf x, vf acc) { return vf_fma(vf_high(y), vf_high(x), acc); }
static inline vf vf_sum(vf a, vf b) { return vf_add(a, b); }
enum { FLUSH_SUBNORMALS = 0x8040 };
static inline unsigned flush_begin(void) {
  unsigned before = _mm_getcsr();
  _mm_setcsr(before | FLUSH_SUBNORMALS);
  return before;
}
static inline void flush_end(unsigned before) { _mm_setcsr(before); }
