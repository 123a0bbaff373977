// Collectives over device memory, with NCCL's place taken by fake_nccl.cpp; started without it on a machine with GPUs,
// one a rank, the same cases run on NCCL itself.

#include "idistill/comm/device_collectives.hpp"

#include <ATen/ATen.h>
#include <c10/core/Storage.h>
#include <c10/core/TensorImpl.h>

#include <bit>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "device_ranks.hpp"
#include "failure_of.hpp"
#include "idistill/work/collectives.hpp"
#include "ranks.hpp"

using namespace idistill;
using namespace idistill::comm;
using namespace idistill::test;

namespace {

void check_values(const Connected& connected, std::size_t count) {
    const int rank = connected.ranks->rank(), size = connected.ranks->size();
    for (int root = 0; root < size; ++root) {
        const DeviceMemory<std::int64_t> values(payloads(rank, count));
        connected.device().broadcast(values.span(), root);
        BOOST_TEST((values.read() == payloads(root, count)));
    }
    const DeviceMemory<std::int64_t> sum(payloads(rank, count)), largest(payloads(rank, count)),
        smallest(payloads(rank, count));
    connected.device().all_reduce(sum.span(), Reduction::sum);
    connected.device().all_reduce(largest.span(), Reduction::max);
    connected.device().all_reduce(smallest.span(), Reduction::min);
    std::vector<std::int64_t> expected(count);
    for (std::size_t i = 0; i < count; ++i)
        expected[i] = 1000003LL * size * (size + 1) / 2 + size * static_cast<std::int64_t>(i * i);
    BOOST_TEST((sum.read() == expected));
    BOOST_TEST((largest.read() == payloads(size - 1, count)));
    BOOST_TEST((smallest.read() == payloads(0, count)));
}

/// Every special value somewhere on every rank, and nothing of the others there.
template <class Float, class Bits>
struct Disjoint {
    std::vector<Bits> expected;
    std::vector<Float> mine;

    explicit Disjoint(std::initializer_list<Bits> more) {
        using Limits = std::numeric_limits<Float>;
        std::vector<Bits> special(more);
        for (const Float value :
             {Float(-0.0), Limits::denorm_min(), -Limits::denorm_min(), Limits::infinity(), -Limits::infinity(),
              Limits::quiet_NaN(), Limits::max(), Limits::lowest(), Float(0.1)})
            special.push_back(std::bit_cast<Bits>(value));
        for (std::size_t i = 0; i < 5 * special.size() + 1; ++i) {
            const bool is_mine = static_cast<int>(i) % world().size() == world().rank();
            expected.push_back(special[i % special.size()]);
            mine.push_back(is_mine ? std::bit_cast<Float>(expected.back()) : Float(0));
        }
    }
    void check(const std::vector<Float>& sums) const {
        BOOST_REQUIRE_EQUAL(sums.size(), expected.size());
        for (std::size_t i = 0; i < sums.size(); ++i) BOOST_TEST(std::bit_cast<Bits>(sums[i]) == expected[i]);
    }
};

const std::initializer_list<std::uint32_t> odd_floats{0x7fc12345U, 0xffc00001U, 0x7f800001U};
const std::initializer_list<std::uint64_t> odd_doubles{0x7ff8000012345678ULL, 0xfff8000000000001ULL,
                                                       0x7ff0000000000001ULL};

/// A tensor of a device that is not the host's over memory that is there.
template <class T>
at::Tensor tensor_over(const DeviceMemory<T>& memory, at::ScalarType type) {
    const auto span = memory.span();
    const at::Device device(at::kPrivateUse1, 0);
    c10::Storage storage(c10::Storage::use_byte_size_t(), span.size_bytes(), at::DataPtr(span.data(), device), nullptr,
                         false);
    auto tensor = at::detail::make_tensor<c10::TensorImpl>(
        std::move(storage), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), caffe2::TypeMeta::fromScalarType(type));
    tensor.unsafeGetTensorImpl()->set_sizes_contiguous({static_cast<std::int64_t>(span.size())});
    return tensor;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(device_collectives, *boost::unit_test::precondition(with_gpu))

BOOST_AUTO_TEST_CASE(sums_and_broadcasts_have_closed_forms) {
    const Connected connected;
    BOOST_TEST(connected.library.starts_with("NCCL 2."));
    for (const std::size_t count : {0, 1, 17, 100000}) check_values(connected, count);
    BOOST_TEST(world().device() == nullptr);
}

BOOST_AUTO_TEST_CASE(every_type_is_that_of_nccl) {
    const Connected connected;
    const auto size = static_cast<std::uint32_t>(world().size());
    const auto check = [&](auto value) {
        using T = decltype(value);
        const DeviceMemory<T> values(std::vector<T>(3, value));
        connected.device().all_reduce(values.span(), Reduction::sum);
        BOOST_TEST((values.read() == std::vector<T>(3, static_cast<T>(value * static_cast<T>(size)))));
        const DeviceMemory<T> extreme(std::vector<T>{static_cast<T>(value + static_cast<T>(world().rank()))});
        connected.device().all_reduce(extreme.span(), Reduction::max);
        BOOST_TEST((extreme.read() == std::vector<T>{static_cast<T>(value + static_cast<T>(size - 1))}));
    };
    check(std::uint8_t{80});
    check(std::int32_t{-7});
    check(std::int64_t{-(1LL << 40U)});
    check(std::uint32_t{1U << 30U});
    check(std::uint64_t{1ULL << 61U});
    const DeviceMemory<float> floats(std::vector<float>(3, world().is_root() ? 0.1F : 7.0F));
    const DeviceMemory<double> doubles(std::vector<double>(3, world().is_root() ? 0.1 : 7.0));
    connected.device().broadcast(floats.span());
    connected.device().broadcast(doubles.span());
    BOOST_TEST((floats.read() == std::vector<float>(3, 0.1F)));
    BOOST_TEST((doubles.read() == std::vector<double>(3, 0.1)));
}

BOOST_AUTO_TEST_CASE(disjoint_reduction_keeps_every_bit) {
    const Connected connected;
    const Disjoint<float, std::uint32_t> floats(odd_floats);
    const Disjoint<double, std::uint64_t> doubles(odd_doubles);
    const DeviceMemory<float> single(floats.mine);
    const DeviceMemory<double> twice(doubles.mine);
    connected.device().all_reduce_disjoint(single.span());
    connected.device().all_reduce_disjoint(twice.span());
    floats.check(single.read());
    doubles.check(twice.read());
}

BOOST_AUTO_TEST_CASE(counts_above_the_piece_are_split) {
    const Connected connected(7);
    for (const std::size_t count : {6, 7, 8, 14, 100}) check_values(connected, count);
}

BOOST_AUTO_TEST_CASE(host_and_device_collectives_take_turns) {
    const Connected connected;
    for (int turn = 0; turn < 20; ++turn) {
        const DeviceMemory<std::int64_t> there(std::vector<std::int64_t>{turn});
        std::int64_t here = turn;
        connected.device().all_reduce(there.span(), Reduction::sum);
        connected.ranks->all_reduce(std::span(&here, 1), Reduction::sum);
        BOOST_TEST(there.read().at(0) == here);
    }
}

BOOST_AUTO_TEST_CASE(tensors_go_by_the_memory_they_lie_in) {
    const Connected connected;
    const Disjoint<float, std::uint32_t> floats(odd_floats);
    const Disjoint<double, std::uint64_t> doubles(odd_doubles);
    const auto on_host = at::tensor(floats.mine);
    work::all_reduce_disjoint(*connected.ranks, on_host);
    floats.check({on_host.data_ptr<float>(), on_host.data_ptr<float>() + on_host.numel()});
    const auto twice = at::tensor(doubles.mine);
    work::all_reduce_disjoint(*connected.ranks, twice);
    doubles.check({twice.data_ptr<double>(), twice.data_ptr<double>() + twice.numel()});

    const DeviceMemory<float> there(floats.mine);
    work::all_reduce_disjoint(*connected.ranks, tensor_over(there, at::kFloat));
    floats.check(there.read());

    const bool root = world().is_root();
    const auto sent = at::full({2, 3}, root ? 0.1 : 7.0, at::kDouble);
    work::broadcast(*connected.ranks, sent);
    BOOST_TEST(sent.equal(at::full({2, 3}, 0.1, at::kDouble)));
    const DeviceMemory<double> coefficients(std::vector<double>(5, root ? 0.1 : 7.0));
    work::broadcast(*connected.ranks, tensor_over(coefficients, at::kDouble));
    BOOST_TEST((coefficients.read() == std::vector<double>(5, 0.1)));

    failure_of(ExitCode::internal_error,
               [&] { work::all_reduce_disjoint(*connected.ranks, at::ones({2}, at::kLong)); });
    failure_of(ExitCode::internal_error, [&] { work::broadcast(*connected.ranks, at::ones({2, 3}).t()); });
    failure_of(ExitCode::internal_error, [&] { work::all_reduce_disjoint(*connected.ranks, at::ones({2, 3}).t()); });
    if (is_fake()) return;
    const auto on_gpu = at::tensor(floats.mine).to(at::kCUDA);
    work::all_reduce_disjoint(*connected.ranks, on_gpu);
    const auto back = on_gpu.cpu();
    floats.check({back.data_ptr<float>(), back.data_ptr<float>() + back.numel()});
}

BOOST_AUTO_TEST_CASE(more_than_2_to_the_31_elements) {
    const std::size_t count = (std::size_t{1} << 32U) + 5;
    if (is_fake()) {  // the calls alone: nothing moves, and no memory is there
        const std::size_t piece = (std::size_t{1} << 30U) + 3;
        const Connected connected(piece);
        ::setenv("FAKE_NCCL_MOVES", "0", 1);
        const auto before = calls_of("ncclAllReduce").size();
        auto* const base = reinterpret_cast<float*>(std::uintptr_t{1} << 20U);
        connected.device().all_reduce_disjoint(std::span(base, count));
        ::unsetenv("FAKE_NCCL_MOVES");
        const auto calls = calls_of("ncclAllReduce");
        std::size_t reached = 0;
        for (std::size_t i = before; i < calls.size(); ++i) {
            std::istringstream words(calls[i]);
            std::string name;
            std::uintptr_t address = 0;
            std::size_t elements = 0;
            words >> name >> std::hex >> address >> std::dec >> elements;
            BOOST_TEST(address == reinterpret_cast<std::uintptr_t>(base) + reached * sizeof(float));
            BOOST_TEST(elements == std::min(piece, count - reached));
            reached += elements;
        }
        BOOST_TEST(reached == count);
        BOOST_TEST(calls.size() - before == 4U);
        return;
    }
    const Connected connected;
    const std::vector<std::uint8_t> ends{1, 2, 3};
    DeviceMemory<std::uint8_t> values(count);
    values.write(ends);
    values.write(ends, count - 3);
    connected.device().all_reduce(values.span(), Reduction::max);
    BOOST_TEST((values.read(0, 3) == ends));
    BOOST_TEST((values.read(count - 3, 3) == ends));
}

BOOST_AUTO_TEST_CASE(nothing_is_left_of_it, *boost::unit_test::precondition(with_fake)) {
    const auto finalized = calls_of("ncclCommFinalize").size();
    { const Connected connected; }
    BOOST_TEST(communicators() == 0);
    BOOST_TEST(calls_of("ncclCommFinalize").size() == finalized + 1);
    BOOST_TEST(calls_of("ncclCommAbort").empty() == true);
}

BOOST_AUTO_TEST_SUITE_END()
