#pragma once
// A small folder: token files whose samples say which row they are, and numbers of every row in closed form.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "token_files.hpp"

namespace idistill::test {

inline constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
inline constexpr std::int64_t small_vocabulary = 1000;
inline constexpr std::int64_t small_max_length = 24;
inline constexpr std::int64_t dropped_target = 1;  ///< place among the usable targets
inline constexpr std::int64_t extra_width = 2;
inline constexpr std::int64_t spread_width = 2;
inline constexpr const char* size_dataset = "/size";
inline constexpr const char* spread_dataset = "/spread";
inline constexpr const char* extra_dataset = "/curvature/factor";  ///< where `select` looks for it

inline bool is_empty(std::int64_t row) { return row % 29 == 8; }
inline bool has_no_labels(std::int64_t row) { return row == 13 || row % 17 == 5; }
inline std::int64_t tokens_of(std::int64_t row) { return is_empty(row) ? 0 : 2 + row * 7 % 23; }
inline bool is_quarantined(std::int64_t row) { return is_empty(row) || has_no_labels(row); }
/// Found out when columns are prepared; and only when its influence is computed.
inline bool is_unusable(std::int64_t row) { return row % 31 == 21; }
inline bool is_not_finite(std::int64_t row) { return is_unusable(row) || row % 9 == 4; }

inline float influence_of(std::int64_t row, std::int64_t target) {
    return static_cast<float>((row * 389 + target * 211 + 17) % 1021) / 64.0F;
}
inline float extra_of(std::int64_t row, std::int64_t column) {
    return static_cast<float>((row * 31 + column * 57) % 101) / 128.0F - 0.375F;
}
inline float size_of(std::int64_t row) { return static_cast<float>(1 + row % 7); }
inline float spread_of(std::int64_t row, std::int64_t column) {
    return static_cast<float>(1 + (row * 5 + column * 3) % 11) / 4.0F;
}

/// A pool of so many rows in two files, and the targets of two tasks: 3 and 2 samples, beside one without labels.
class SmallFolder {
public:
    explicit SmallFolder(std::int64_t rows) : rows_(rows) {
        const auto first = rows * 2 / 5;
        write_pool("pool_a.h5", 0, first);
        write_pool("pool_b.h5", first, rows);
        write_targets("code.h5", {0, 1, 1, 1});
        write_targets("maths.h5", {1, 1});
    }

    [[nodiscard]] std::int64_t rows() const { return rows_; }
    [[nodiscard]] std::string operator/(const std::string& name) const { return folder_ / name; }

private:
    void write_pool(const std::string& name, std::int64_t first, std::int64_t end) const {
        TokenContent content;
        content.max_length = small_max_length;
        for (auto row = first; row < end; ++row) {
            const auto count = static_cast<std::size_t>(tokens_of(row));
            std::vector<std::int32_t> tokens(count, 1);
            std::vector<std::uint8_t> mask(count, 0);
            if (count > 0) tokens.front() = static_cast<std::int32_t>(row);
            if (count > 0 && !has_no_labels(row)) mask.back() = 1;
            content.add("sample " + std::to_string(row), "source " + std::to_string(row % 3), tokens, mask);
        }
        write_token_file(*this / name, content);
    }
    void write_targets(const std::string& name, const std::vector<std::uint8_t>& labels) const {
        TokenContent content;
        for (std::size_t i = 0; i < labels.size(); ++i)
            content.add(name + std::to_string(i), "targets", {2, 3, 4}, {0, labels[i], labels[i]});
        write_token_file(*this / name, content);
    }

    TemporaryFolder folder_;
    std::int64_t rows_;
};

}  // namespace idistill::test
