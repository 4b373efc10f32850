// Checks the kernels of one instruction set against plain loops in double: `kernels_check ISA`. Without an argument:
// the instruction sets of this build and machine, the best first.
#include "check.hpp"
#include "isas.hpp"

int main(int count, char** words) {
  using namespace radixmill;
  if (count != 2) {
    for (const std::string& isa : isas()) std::printf("%s\n", isa.c_str());
    return 0;
  }
  Report report;
  const Kernels& kernels = kernels_for(words[1]);
  report.expect(kernels.isa == std::string(words[1]), "the table's name");
  check_linear(kernels, report);
  check_rows(kernels, report);
  check_attention(kernels, report);
  std::printf("%s: %d checks, %d failed, digest %016llx\n", kernels.isa, report.checks(), report.failures(),
              static_cast<unsigned long long>(report.digest()));
  return report.failures() != 0;
}
