#include <algorithm>
#include <atomic>
#include <bit>
#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "findings.hpp"
#include "idistill/comm/claims.hpp"
#include "idistill/comm/ordered_sum.hpp"
#include "idistill/comm/thread_group.hpp"

using namespace idistill;
using namespace idistill::comm;
using idistill::test::Findings;

namespace {

/// Passes everything on and counts the bytes that this rank receives from others: in a broadcast all but the root's, in
/// a gather the others' on the root.
class CountingCommunicator final : public Communicator {
public:
    explicit CountingCommunicator(Communicator& ranks) : ranks_(ranks) {}

    [[nodiscard]] int rank() const noexcept override { return ranks_.rank(); }
    [[nodiscard]] int size() const noexcept override { return ranks_.size(); }
    void barrier() override { ranks_.barrier(); }
    [[nodiscard]] std::size_t received_bytes() const { return received_; }
    [[nodiscard]] std::size_t most_at_once() const { return most_; }

protected:
    void broadcast_raw(void* data, std::size_t count, ElementType type, int root) override {
        const std::size_t bytes = count * (type == ElementType::f32 ? 4 : 8);
        ranks_.broadcast(std::span(static_cast<std::uint8_t*>(data), bytes), root);
        if (rank() != root) count_in(bytes);
    }
    std::vector<std::vector<std::byte>> gather_raw(const void* mine, std::size_t bytes, int root) override {
        auto parts = ranks_.gather<std::byte>({static_cast<const std::byte*>(mine), bytes}, root);
        std::size_t sum = 0;
        for (std::size_t from = 0; from < parts.size(); ++from)
            if (static_cast<int>(from) != rank()) sum += parts[from].size();
        count_in(sum);
        return parts;
    }
    // What a sum has no use for.
    void all_reduce_raw(void*, std::size_t, ElementType, Reduction) override { std::terminate(); }
    std::vector<std::vector<std::byte>> all_gather_raw(const void*, std::size_t) override { std::terminate(); }
    std::unique_ptr<WorkClaims> make_claims(std::span<const std::int64_t>, std::function<void(std::int64_t)>) override {
        std::terminate();
    }

private:
    void count_in(std::size_t bytes) {
        received_ += bytes;
        most_ = std::max(most_, bytes);
    }

    Communicator& ranks_;
    std::size_t received_ = 0;
    std::size_t most_ = 0;
};

/// Numbers whose sum depends on the order of the additions.
std::vector<float> part_of(std::size_t unit, std::size_t numbers) {
    std::vector<float> part(numbers);
    std::uint32_t state = static_cast<std::uint32_t>(unit) * 2654435761U + 12345U;
    for (float& value : part) {
        state = state * 1664525U + 1013904223U;
        value = (static_cast<float>(state >> 8U) - 8388608.0F) * (state % 3 == 0 ? 1e-3F : 1e-7F);
    }
    return part;
}

std::vector<std::uint32_t> bits(const std::vector<float>& values) {
    std::vector<std::uint32_t> all;
    for (const float value : values) all.push_back(std::bit_cast<std::uint32_t>(value));
    return all;
}

std::vector<float> serial_sum(std::size_t units, std::size_t numbers) {
    std::vector<float> sum(numbers, 0.0F);
    for (std::size_t unit = 0; unit < units; ++unit) {
        const auto part = part_of(unit, numbers);
        for (std::size_t i = 0; i < numbers; ++i) sum[i] += part[i];
    }
    return sum;
}

/// The sum of the units in rounds of one a rank.
std::vector<float> shared_sum(Communicator& ranks, std::size_t units, std::size_t numbers) {
    std::vector<float> sum(numbers, 0.0F);
    const auto size = static_cast<std::size_t>(ranks.size());
    for (std::size_t first = 0; first < units; first += size) {
        const auto mine = first + static_cast<std::size_t>(ranks.rank());
        const auto part = mine < units ? part_of(mine, numbers) : std::vector<float>();
        add_to_slices(ranks, part, sum);
    }
    share_slices(ranks, sum);
    return sum;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ordered_sum)

BOOST_AUTO_TEST_CASE(the_numbers_show_the_order) {
    constexpr std::size_t numbers = 1000;
    std::vector<float> backwards(numbers, 0.0F);
    for (std::size_t unit = 64; unit-- > 0;) {
        const auto part = part_of(unit, numbers);
        for (std::size_t i = 0; i < numbers; ++i) backwards[i] += part[i];
    }
    BOOST_TEST((bits(backwards) != bits(serial_sum(64, numbers))));
}

BOOST_AUTO_TEST_CASE(every_number_of_ranks_gives_the_bits_of_the_serial_sum) {
    for (const std::size_t numbers : {0U, 1U, 4U, 7U, 1000U, 1009U}) {  // fewer than ranks; not divisible by them
        for (const std::size_t units : {0U, 1U, 2U, 4U, 6U, 64U}) {
            const auto expected = bits(serial_sum(units, numbers));
            for (const int size : {1, 2, 3, 5}) {
                Findings wrong;
                run_ranks_as_threads(size, [&](Communicator& ranks) {
                    wrong.expect(bits(shared_sum(ranks, units, numbers)) == expected,
                                 "rank " + std::to_string(ranks.rank()));
                });
                BOOST_TEST(wrong.text() == "", size << " ranks, " << units << " units of " << numbers << " numbers");
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(a_rank_without_a_part_adds_nothing) {
    const float kept = -0.0F;  // which + 0.0 would change
    Findings wrong;
    run_ranks_as_threads(3, [&](Communicator& ranks) {
        std::vector<float> sum(5, kept);
        add_to_slices(ranks, {}, sum);
        share_slices(ranks, sum);
        wrong.expect(bits(sum) == bits(std::vector<float>(5, kept)), "sum");
    });
    BOOST_TEST(wrong.text() == "");
}

BOOST_AUTO_TEST_CASE(a_rank_receives_a_slice_of_every_part_and_the_sum_once) {
    constexpr std::size_t units = 64;
    constexpr std::size_t numbers = 10007;
    for (const int size : {1, 2, 3, 5}) {
        const auto ranks_count = static_cast<std::size_t>(size);
        const std::size_t slice = (numbers + ranks_count - 1) / ranks_count;  // the longest
        Findings wrong;
        std::atomic<std::size_t> received = 0;
        run_ranks_as_threads(size, [&](Communicator& ranks) {
            CountingCommunicator counting(ranks);
            const auto sum = shared_sum(counting, units, numbers);
            wrong.expect(bits(sum) == bits(serial_sum(units, numbers)), "sum");
            const std::size_t bound = (units / ranks_count + (units % ranks_count > 0 ? 1 : 0) + 1) * numbers;
            wrong.expect(counting.received_bytes() / sizeof(float) <= bound + units, "numbers received");
            wrong.expect(counting.received_bytes() / sizeof(float) <= units * slice + numbers, "slices received");
            wrong.expect(2 * counting.most_at_once() / sizeof(float) <= numbers + 2 * ranks_count, "held at once");
            received += counting.received_bytes() / sizeof(float);
        });
        BOOST_TEST(wrong.text() == "", size << " ranks");
        // Everything travels once: of every part all slices but its owner's to other ranks, of the sum every slice to
        // all ranks but its owner.
        const std::size_t others = ranks_count - 1;
        std::size_t own = 0;  // numbers that stay where they were computed
        for (std::size_t unit = 0; unit < units; ++unit) {
            const std::size_t rank = unit % ranks_count;
            own += numbers / ranks_count + (rank < numbers % ranks_count ? 1 : 0);
        }
        BOOST_TEST(received == units * numbers - own + others * numbers);
    }
}

BOOST_AUTO_TEST_SUITE_END()
