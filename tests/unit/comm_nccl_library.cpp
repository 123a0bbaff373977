#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../../src/comm/nccl_library.hpp"
#include "../../src/comm/operation.hpp"
#include "failure_of.hpp"
#include "idistill/comm/device_collectives.hpp"

#if __has_include(<nccl.h>) && __has_include(<cuda_runtime.h>)
#include <nccl.h>
#define IDISTILL_HAS_NCCL_HEADER
#endif

using namespace idistill;
using namespace idistill::comm;
using idistill::test::contains;
using idistill::test::failure_of;

BOOST_AUTO_TEST_SUITE(nccl_library)

BOOST_AUTO_TEST_CASE(without_cuda_in_the_process_the_remedy_is_said) {
    const auto failure = failure_of(ExitCode::usage, [] { nccl::find_library(); });
    BOOST_TEST(contains(failure.found, "no ncclGetVersion"));
    BOOST_TEST(contains(failure.remedy, "LibTorch with CUDA and NCCL"));
}

BOOST_AUTO_TEST_CASE(pieces_cover_counts_above_2_to_the_31) {
    using Pieces = std::vector<std::pair<std::size_t, std::size_t>>;
    const auto pieces = [](std::size_t count, std::size_t piece) {
        Pieces found;
        in_pieces(count, piece, [&](std::size_t first, std::size_t elements) { found.emplace_back(first, elements); });
        return found;
    };
    BOOST_TEST((pieces(0, 7) == Pieces()));
    BOOST_TEST((pieces(1, 7) == Pieces{{0, 1}}));
    BOOST_TEST((pieces(7, 7) == Pieces{{0, 7}}));
    BOOST_TEST((pieces(8, 7) == Pieces{{0, 7}, {7, 1}}));
    const std::size_t many = (std::size_t{1} << 33U) + 5;
    std::size_t reached = 0;
    for (const auto& [first, elements] : pieces(many, largest_device_piece)) {
        BOOST_TEST(first == reached);
        BOOST_TEST(elements > 0U);
        BOOST_TEST(elements <= largest_device_piece);
        reached += elements;
    }
    BOOST_TEST(reached == many);
}

#ifdef IDISTILL_HAS_NCCL_HEADER
BOOST_AUTO_TEST_CASE(the_binary_interface_is_that_of_the_header) {
    static_assert(sizeof(nccl::UniqueId) == sizeof(ncclUniqueId) && alignof(nccl::UniqueId) == alignof(ncclUniqueId));
    static_assert(offsetof(nccl::Config, size) == offsetof(ncclConfig_t, size));
    static_assert(offsetof(nccl::Config, magic) == offsetof(ncclConfig_t, magic));
    static_assert(offsetof(nccl::Config, version) == offsetof(ncclConfig_t, version));
    static_assert(offsetof(nccl::Config, blocking) == offsetof(ncclConfig_t, blocking));
    static_assert(offsetof(nccl::Config, padding) == offsetof(ncclConfig_t, cgaClusterSize));
    static_assert(sizeof(nccl::Config) <= sizeof(ncclConfig_t) && sizeof(nccl::Result) == sizeof(ncclResult_t));
    const ncclConfig_t theirs = NCCL_CONFIG_INITIALIZER;
    const nccl::Config ours;
    BOOST_TEST(ours.magic == theirs.magic);
    BOOST_TEST(ours.version <= theirs.version);
    BOOST_TEST(ours.padding == theirs.cgaClusterSize);
    BOOST_TEST(static_cast<int>(nccl::remote_error) == static_cast<int>(ncclRemoteError));
    BOOST_TEST(static_cast<int>(nccl::in_progress) == static_cast<int>(ncclInProgress));
    BOOST_TEST(static_cast<int>(nccl::cuda_not_ready) == static_cast<int>(cudaErrorNotReady));
    const std::vector<std::pair<ElementType, int>> types{
        {ElementType::u8, ncclUint8},   {ElementType::i32, ncclInt32},  {ElementType::i64, ncclInt64},
        {ElementType::u32, ncclUint32}, {ElementType::u64, ncclUint64}, {ElementType::f32, ncclFloat32},
        {ElementType::f64, ncclFloat64}};
    BOOST_TEST(types.size() == static_cast<std::size_t>(ElementType::end));
    for (const auto& [type, number] : types) BOOST_TEST(nccl::data_type(type) == number);
    BOOST_TEST(nccl::operation(Reduction::sum) == static_cast<int>(ncclSum));
    BOOST_TEST(nccl::operation(Reduction::max) == static_cast<int>(ncclMax));
    BOOST_TEST(nccl::operation(Reduction::min) == static_cast<int>(ncclMin));
}
#endif

BOOST_AUTO_TEST_SUITE_END()
