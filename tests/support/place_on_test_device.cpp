// The program itself on the test device: linked before the library that has the product's place_of, it decides where a
// rank computes. Its settings say "cpu".

#include <cstdio>
#include <cstdlib>

#include "idistill/model/place.hpp"
#include "test_device.hpp"

namespace idistill::model {

Place place_of(const options::RunSettings& run) {
    [[maybe_unused]] static const int said_at_the_end = std::atexit([] {
        std::fprintf(stderr, "test device: %lld operators\n", static_cast<long long>(test::device_work().operators));
    });
    test::explain_stray_pointers();
    return {test::test_device(), run.dtype == options::DtypeKind::bf16 ? torch::kBFloat16 : torch::kFloat32};
}

}  // namespace idistill::model
