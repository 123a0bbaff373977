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

// The limits that the header of the plugin states, of blocks of 99, 163 and 227 KiB.
BOOST_AUTO_TEST_CASE(rows_that_no_block_holds_are_left_to_others) {
    constexpr std::int64_t comfortable = 72 << 10;
    const auto bytes = [](std::int64_t width, std::int64_t kib) {
        return model::rows::bytes_of_column(width, comfortable, kib << 10);
    };
    for (const std::int64_t kib : {99, 163, 227}) {
        BOOST_TEST((bytes(1, kib) == 16 && bytes(4608, kib) == 16 && bytes(4609, kib) == 8));
        BOOST_TEST((bytes(9216, kib) == 8 && bytes(9217, kib) == 4));
    }
    BOOST_TEST((bytes(25344, 99) == 4 && bytes(25345, 99) == 0));
    BOOST_TEST((bytes(41728, 163) == 4 && bytes(41729, 163) == 0));
    BOOST_TEST((bytes(58112, 227) == 4 && bytes(58113, 227) == 0));
}

BOOST_AUTO_TEST_SUITE_END()
