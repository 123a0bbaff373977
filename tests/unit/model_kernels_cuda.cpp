// The row functions of the CUDA kernels, on the host: lanes one after the other, against plain functions in double.

#include <boost/test/unit_test.hpp>

#include "../../src/model/kernels_cpu.hpp"
#include "kernel_cases.hpp"
#include "kernels_in_order.hpp"

using namespace idistill;
using namespace idistill::test;
using model::rows::Bf16;

namespace {

template <class T>
void check_cases(const model::CudaKernels& kernels) {
    for (const auto& finding : kernel_findings<T>(host_machine(kernels)))
        BOOST_TEST(finding.error < kernel_tolerance<T>(),
                   finding.kernel << ' ' << finding.shape << ": " << finding.error);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_kernels_cuda)

BOOST_AUTO_TEST_CASE(one_lane_gives_what_the_formulas_give) {
    check_cases<float>(kernels_in_order<1>());
    check_cases<Bf16>(kernels_in_order<1>());
}

BOOST_AUTO_TEST_CASE(a_warp_gives_what_the_formulas_give) {
    check_cases<float>(kernels_in_order<32>());
    check_cases<Bf16>(kernels_in_order<32>());
}

BOOST_AUTO_TEST_CASE(as_many_lanes_as_a_gpu_takes_give_what_the_formulas_give) {
    check_cases<float>(kernels_in_order<0>());
    check_cases<Bf16>(kernels_in_order<0>());
}

BOOST_AUTO_TEST_SUITE_END()
