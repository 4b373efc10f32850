// exp, tanh and erf of a vector of floats. Include after a vec_*.hpp. Vector bodies and tails both come here, so an element's
// bits do not depend on its place. Polynomials are Chebyshev fits; errors are relative unless said otherwise.
#pragma once

namespace radixmill {
namespace {

// c[0] + c[1] x + …, by Horner.
template <int N>
RADIXMILL_INLINE V polynomial(V x, const float (&c)[N]) {
  V y = set1(c[N - 1]);
  for (int i = N - 2; i >= 0; i--) y = fma(y, x, set1(c[i]));
  return y;
}

// x = n ln 2 + r with |r| ≤ ln 2 / 2; eʳ.
struct Reduced {
  V n, power;
};
RADIXMILL_INLINE Reduced reduce_exp(V x) {
  static constexpr float c[] = {0.5000000014f, 0.1666657664f, 0.04166646417f, 0.008363235385f, 0.001393373322f};
  const V n = round(mul(x, set1(1.44269504f)));
  const V r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), x));
  return {n, add(fma(mul(r, r), polynomial(r, c), r), set1(1))};
}

// eˣ within 2 ulp. Exactly 0 below −87.3 (no subnormals), infinity above 88.8.
RADIXMILL_INLINE V exp(V x) {
  const Reduced e = reduce_exp(max(set1(-87.3f), min(set1(88.8f), x)));
  const VI whole = to_int(e.n), low = half_int(whole);  // in two steps: 2¹²⁸ is not a float
  const V scaled = mul(mul(e.power, power_of_two(low)), power_of_two(sub_int(whole, low)));
  return where_less(x, set1(-87.3f), zero(), scaled);
}

// The same for x ≤ 0.
RADIXMILL_INLINE V exp_fading(V x) {
  const Reduced e = reduce_exp(max(set1(-87.3f), x));
  return where_less(x, set1(-87.3f), zero(), mul(e.power, power_of_two(to_int(e.n))));
}

// |x| < 0.625: x · P(x²), error 4e-9 before rounding; else 1 − 2 / (e^2|x| + 1).
RADIXMILL_INLINE V tanh(V x) {
  static constexpr float c[] = {0.9999999962f,   -0.3333326164f, 0.1333115016f,
                                -0.05372267935f, 0.02059567996f, -0.005664775359f};
  const V size = abs(x);
  const V near = mul(x, polynomial(mul(x, x), c));
  const V far = sub(set1(1), div(set1(2), add(exp(add(size, size)), set1(1))));
  return where_less(size, set1(0.625f), near, with_sign_of(far, x));
}

// |x| < 1: x · P(x²), error 2e-9; else 1 − exp(−Q(|x|)) up to 4.2, absolute error 3e-9; both before rounding.
RADIXMILL_INLINE V erf(V x) {
  static constexpr float p[] = {1.128379166f,    -0.376126269f,     0.1128359746f,   -0.0268543288f,
                                0.005189311943f, -0.0008018854993f, 7.882497112e-05f};
  static constexpr float q[] = {-0.0002534073709f, 1.129963819f,     0.6322860116f,
                                0.109647075f,      -0.02617481316f,  0.004672751583f,
                                -0.0005782396078f, 4.385324305e-05f, -1.525575145e-06f};
  const V size = abs(x);
  const V near = mul(x, polynomial(mul(x, x), p));
  const V far = sub(set1(1), exp(sub(zero(), polynomial(min(set1(4.2f), size), q))));
  return where_less(size, set1(1), near, with_sign_of(far, x));
}

}  // namespace
}  // namespace radixmill
