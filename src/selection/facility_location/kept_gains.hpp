#pragma once
// What candidates can still add, so that most gains are computed from a few numbers.
//
// The cover of a represented sample only grows: where a candidate's similarity is not above it, it never counts again.
// So of every candidate that was looked at, the similarities above the cover are kept, and fewer of them every time.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace idistill::selection {

struct KeptSimilarity {
    std::uint32_t place = 0;  ///< of the represented sample, among those of this rank
    float value = 0.0F;
};

/// Of one candidate: similarities above the cover, places ascending.
struct KeptGain {
    std::vector<KeptSimilarity> above;
    double constant = 0.0;  ///< of its gain, which does not depend on what is covered
};

class KeptGains {
public:
    explicit KeptGains(double bytes) : room_(bytes) {}

    /// Null where nothing is kept.
    [[nodiscard]] const KeptGain* find(std::int64_t row) const {
        const auto found = kept_.find(row);
        return found == kept_.end() ? nullptr : &found->second;
    }
    /// Calls take(place, value) with what is above `cover`, and forgets the rest.
    template <class Take>
    void visit(std::int64_t row, std::span<const float> cover, Take take) {
        auto& above = kept_.find(row)->second.above;
        std::size_t left = 0;
        for (const auto entry : above) {
            if (!(entry.value > cover[entry.place])) continue;
            take(entry.place, entry.value);
            above[left++] = entry;
        }
        if (left > above.capacity() / 4) {
            above.resize(left);
            return;
        }
        room_ += bytes_of(above.capacity());
        std::vector<KeptSimilarity>(above.begin(), above.begin() + static_cast<std::ptrdiff_t>(left)).swap(above);
        room_ -= bytes_of(above.capacity());
    }
    /// Where there is no room for it, nothing is kept.
    void keep(std::int64_t row, std::span<const KeptSimilarity> above, double constant) {
        if (bytes_of(above.size()) > room_) return;
        KeptGain gain{{above.begin(), above.end()}, constant};
        room_ -= bytes_of(gain.above.capacity());
        kept_.insert_or_assign(row, std::move(gain));
    }
    void forget(std::int64_t row) {
        const auto found = kept_.find(row);
        if (found == kept_.end()) return;
        room_ += bytes_of(found->second.above.capacity());
        kept_.erase(found);
    }

private:
    static double bytes_of(std::size_t similarities) {
        constexpr double entry_bytes = 96.0;  // of the map, with its allocation
        return entry_bytes + static_cast<double>(similarities * sizeof(KeptSimilarity));
    }

    std::unordered_map<std::int64_t, KeptGain> kept_;
    double room_;
};

}  // namespace idistill::selection
